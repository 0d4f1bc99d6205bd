"use strict";
/* The list of predictions: search, sort, 50 a page. Texts are only ever set as text, never as HTML. */
(() => {
  const PER_PAGE = 50;
  const byId = (id) => document.getElementById(id);
  const { scores, rows } = JSON.parse(byId("data-of-predictions").textContent);
  const texts = rows.map((row) => [row.id, row.source, row.prediction, ...row.references, ...row.faults, ...row.flags].join("\n").toLowerCase());
  const state = { sort: null, descending: false, page: 0 }; // null: as given, the worst first

  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function passage(text) {
    const made = element("div", "text", text);
    made.dir = "auto";
    return made;
  }

  function formatted(row, place) {
    const value = row.scores[place];
    return value === null ? "–" : value.toFixed(scores[place].decimals);
  }

  function chosen() {
    const wanted = byId("search").value.trim().toLowerCase();
    const kept = rows.map((_, place) => place).filter((place) =>
      (!wanted || texts[place].includes(wanted)) && (!byId("faulty").checked || rows[place].faults.length || rows[place].flags.length));
    if (state.sort === null) return kept;
    const sign = state.descending ? -1 : 1;
    const value = (place) => rows[place].scores[state.sort];
    return kept.sort((a, b) => {
      if (value(a) === null || value(b) === null) return (value(a) === null) - (value(b) === null) || a - b;
      return sign * (value(a) - value(b)) || a - b;
    });
  }

  function rendered(row) {
    const line = element("tr");
    const shown = state.sort ?? 0;
    const cells = {
      number: element("div", "result", scores.length ? formatted(row, shown) : ""),
      source: passage(row.source),
      prediction: passage(row.prediction),
      references: element("div"),
    };
    cells.references.append(...row.references.map(passage));
    for (const [name, content] of Object.entries(cells)) {
      const cell = element("td", name);
      cell.setAttribute("role", "cell");
      cell.dataset.label = name === "number" ? scores[shown]?.name ?? "" : name;
      cell.append(content);
      line.append(cell);
    }
    line.setAttribute("role", "row");
    const prediction = line.querySelector(".prediction");
    for (const [kind, lines] of [["fault", row.faults], ["flag", row.flags]]) {
      prediction.append(...lines.map((line) => Object.assign(element("span", kind, line), { dir: "auto" })));
    }
    const own = scores.map((score, place) => `${score.name} ${formatted(row, place)}`).join(" · ");
    prediction.append(element("small", "", own));
    line.querySelector(".number").append(Object.assign(element("small", "id", row.id), { title: "id" }));
    return line;
  }

  function render() {
    const found = chosen();
    const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
    state.page = Math.min(Math.max(state.page, 0), pages - 1);
    const start = state.page * PER_PAGE;
    const visible = found.slice(start, start + PER_PAGE);
    byId("rows").replaceChildren(...visible.map((place) => rendered(rows[place])));
    byId("sorted-by").textContent = scores[state.sort ?? 0]?.name ?? "";
    const range = found.length ? `${start + 1} to ${start + visible.length} of ` : "";
    byId("status").textContent = `${range}${found.length.toLocaleString("en")} predictions`;
    byId("page").textContent = `page ${state.page + 1} of ${pages}`;
    byId("previous").disabled = state.page === 0;
    byId("next").disabled = state.page === pages - 1;
    for (const button of byId("sorts").querySelectorAll("button")) {
      const own = button.dataset.sort === String(state.sort);
      button.setAttribute("aria-pressed", own);
      button.textContent = button.dataset.name + (own && state.sort !== null ? (state.descending ? " ↓" : " ↑") : "");
    }
  }

  function restart() {
    state.page = 0;
    render();
  }

  /* The first press shows the worst on top, the second the best. */
  function sortBy(place) {
    const worstFirst = place !== null && scores[place].better === "lower";
    state.descending = state.sort === place && place !== null ? !state.descending : worstFirst;
    state.sort = place;
    restart();
  }

  function addSort(place, name) {
    const button = element("button");
    button.type = "button";
    button.dataset.sort = String(place);
    button.dataset.name = name;
    button.addEventListener("click", () => sortBy(place));
    byId("sorts").append(button);
  }

  function turn(pages) {
    state.page += pages;
    render();
    byId("predictions").scrollIntoView();
  }

  byId("sorts").hidden = !scores.length;
  addSort(null, "worst first");
  scores.forEach((score, place) => addSort(place, score.name));
  byId("search").addEventListener("input", restart);
  byId("faulty").addEventListener("change", restart);
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  document.querySelector(".tools").addEventListener("submit", (event) => event.preventDefault());
  byId("faulty-label").hidden = !rows.some((row) => row.faults.length || row.flags.length);
  byId("explorer").hidden = false;
  render();
})();
