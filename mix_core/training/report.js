// Values under the pointer, and the gallery's filters. Without script the page lacks nothing else.
for (const svg of document.querySelectorAll("svg[data-hover]")) {
  const lines = JSON.parse(svg.dataset.hover);
  const cursor = svg.querySelector(".cursor"), rule = cursor.querySelector("line");
  const out = svg.closest("figure").querySelector("output");
  const dots = lines.map(() => cursor.appendChild(document.createElementNS(svg.namespaceURI, "circle")));
  const nearest = (places, x) =>
    places.reduce((best, at, i) => (Math.abs(at - x) < Math.abs(places[best] - x) ? i : best), 0);
  svg.addEventListener("pointermove", event => {
    const area = svg.getBoundingClientRect();
    const x = 100 * (event.clientX - area.left) / area.width;
    const found = lines.map(line => nearest(line.x, x));
    lines.forEach((line, n) => {
      dots[n].setAttribute("r", 3.5);
      dots[n].setAttribute("cx", `${line.x[found[n]]}%`);
      dots[n].setAttribute("cy", `${line.y[found[n]]}%`);
    });
    for (const end of ["x1", "x2"]) rule.setAttribute(end, `${lines[0].x[found[0]]}%`);
    const values = lines.map((line, n) => `${line.name} ${line.text[found[n]]}`);
    out.textContent = [`step ${lines[0].step[found[0]].toLocaleString("en")}`, ...values].join("   ");
    cursor.classList.add("on");
  });
  svg.addEventListener("pointerleave", () => {
    out.textContent = "";
    cursor.classList.remove("on");
  });
}

const filters = document.querySelector(".filters");
if (filters) {
  let task = "", wrongOnly = false;
  filters.hidden = false;
  filters.addEventListener("click", event => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.wrong) wrongOnly = !wrongOnly;
    else task = button.dataset.task;
    for (const other of filters.querySelectorAll("button")) {
      const pressed = other.dataset.wrong ? wrongOnly : other.dataset.task === task;
      other.setAttribute("aria-pressed", pressed);
    }
    for (const card of document.querySelectorAll(".card"))
      card.hidden = (task && card.dataset.task !== task) || (wrongOnly && !card.classList.contains("wrong"));
    for (const picks of document.querySelectorAll(".picks"))
      picks.hidden = !picks.querySelector(".card:not([hidden])");
  });
}
