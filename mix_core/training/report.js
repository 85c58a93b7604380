// Values under the pointer, in all charts at once, and the gallery's filter. Without script nothing else is missing.
const charts = [...document.querySelectorAll("svg[data-hover]")].map(svg => {
  const lines = JSON.parse(svg.dataset.hover), cursor = svg.querySelector(".cursor");
  const dots = lines.map(line => {
    const dot = document.createElementNS(svg.namespaceURI, "circle");
    dot.setAttribute("r", 3.5);
    dot.setAttribute("class", line.style);
    return cursor.appendChild(dot);
  });
  return { svg, lines, cursor, dots, out: svg.closest("figure").querySelector("output") };
});

function nearest(steps, step) {
  let low = 0, high = steps.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle + 1; else high = middle;
  }
  return low > 0 && step - steps[low - 1] < steps[low] - step ? low - 1 : low;
}

function show({ lines, cursor, dots, out }, step) {
  const rule = cursor.querySelector("line");
  const texts = lines.map((line, n) => {
    const at = nearest(line.step, step);
    dots[n].setAttribute("cx", line.x[at] + "%");
    dots[n].setAttribute("cy", line.y[at] + "%");
    for (const name of n ? [] : ["x1", "x2"]) rule.setAttribute(name, line.x[at] + "%");
    return (n ? "" : `step ${line.step[at].toLocaleString("en")}   `) + (n || lines.length > 2 ? `${line.name} ` : "") + line.text[at];
  });
  out.textContent = texts.join("   ");
  cursor.classList.add("on");
}

for (const { svg, lines } of charts) {
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect();
    const [{ x, step }] = lines, end = x.length - 1;
    const share = (100 * (event.clientX - box.left) / box.width - x[0]) / (x[end] - x[0] || 1);
    const at = step[0] + Math.min(1, Math.max(0, share)) * (step[end] - step[0]);
    charts.forEach(chart => show(chart, at));
  });
  svg.addEventListener("pointerleave", () => {
    for (const { cursor, out } of charts) {
      out.textContent = out.dataset.rest;
      cursor.classList.remove("on");
    }
  });
}

const filters = document.querySelector(".filters");
if (filters) {
  filters.hidden = false;
  filters.addEventListener("click", event => {
    const button = event.target.closest("button");
    if (!button) return;
    for (const other of filters.children) other.setAttribute("aria-pressed", other === button);
    document.querySelector("#pictures").classList.toggle("wrong-only", "wrong" in button.dataset);
  });
}
