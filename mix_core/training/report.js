// Values under the pointer, and the gallery's filters. Without script the page lacks nothing else.
for (const svg of document.querySelectorAll("svg[data-hover]")) {
  const lines = JSON.parse(svg.dataset.hover);
  const cursor = svg.querySelector(".cursor"), rule = cursor.querySelector("line");
  const out = svg.closest("figure").querySelector("output");
  const dots = lines.map(() => cursor.appendChild(document.createElementNS(svg.namespaceURI, "circle")));
  dots.forEach(dot => dot.setAttribute("r", 3.5));
  svg.addEventListener("pointermove", event => {
    const x = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse()).x;
    const texts = lines.map((line, n) => {
      let best = 0;
      line.x.forEach((at, i) => { if (Math.abs(at - x) < Math.abs(line.x[best] - x)) best = i; });
      dots[n].setAttribute("cx", line.x[best]);
      dots[n].setAttribute("cy", line.y[best]);
      if (n === 0) {
        rule.setAttribute("x1", line.x[best]);
        rule.setAttribute("x2", line.x[best]);
        return `step ${line.step[best].toLocaleString("en")}   ${line.name} ${line.text[best]}`;
      }
      return `${line.name} ${line.text[best]}`;
    });
    out.textContent = texts.join("   ");
    cursor.removeAttribute("hidden");
  });
  svg.addEventListener("pointerleave", () => {
    out.textContent = "";
    cursor.setAttribute("hidden", "");
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
  });
}
