"use strict";
/* Marks the source words that a written word leans on. Every sentence is on the page already; this one chooses. */
(() => {
  const { examples } = JSON.parse(document.getElementById("data-of-examples").textContent);
  const views = document.getElementById("views");
  const refresh = [];
  let view = "left_out";

  document.querySelectorAll(".example").forEach((example, number) => {
    if (!examples[number]) return; // nothing was written
    const sources = [...example.querySelectorAll(".from")];
    const words = [...example.querySelectorAll(".to")];
    const told = example.querySelector(".leaning");
    let chosen = 0; // a written word from 1 on, or 0 for the whole text

    function show(place) {
      const { marks, sentence } = examples[number][view][place];
      for (const source of sources) source.dataset.mark = marks[source.dataset.word] ?? 0;
      told.textContent = sentence;
    }

    function choose(place) {
      chosen = place;
      words.forEach((word, own) => word.setAttribute("aria-pressed", String(own + 1 === place)));
      show(place);
    }

    function focus(place) {
      for (const word of words) word.tabIndex = -1;
      words[place].tabIndex = 0;
      words[place].focus();
    }

    words.forEach((word, own) => {
      word.setAttribute("role", "button");
      word.setAttribute("aria-pressed", "false");
      word.removeAttribute("title"); // the sentence stands below
      word.tabIndex = own ? -1 : 0; // one stop of the tab key; arrows go on from there
      word.addEventListener("mouseenter", () => show(own + 1));
      word.addEventListener("mouseleave", () => show(chosen));
      word.addEventListener("click", () => choose(chosen === own + 1 ? 0 : own + 1));
      word.addEventListener("focus", () => { if (word.matches(":focus-visible")) choose(own + 1); });
      word.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (step && words[own + step]) focus(own + step);
        else if (event.key === "Escape") choose(0);
        else if (event.key === "Enter" || event.key === " ") choose(own + 1);
        else return;
        event.preventDefault();
      });
    });
    refresh.push(() => show(chosen));
  });

  views.addEventListener("change", (event) => {
    view = event.target.value;
    for (const each of refresh) each();
  });
  views.hidden = false;
})();
