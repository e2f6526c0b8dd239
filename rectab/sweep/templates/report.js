"use strict";
(function () {
  const charts = JSON.parse(document.getElementById("charts").textContent);

  // A figure names its colours as var(--name); the style sheet of the present colour scheme says what they are.
  function resolve(value, style) {
    if (Array.isArray(value)) return value.map((item) => resolve(item, style));
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, resolve(item, style)]));
    }
    const name = typeof value === "string" && value.match(/^var\((--[\w-]+)\)$/);
    return name ? style.getPropertyValue(name[1]).trim() : value;
  }

  function draw(id) {
    const element = document.getElementById(id);
    const style = getComputedStyle(document.documentElement);
    const figure = resolve(charts[id], style);
    const narrow = element.clientWidth < 520;
    const ink = style.getPropertyValue("--ink").trim();
    const line = style.getPropertyValue("--line").trim();
    const axis = { gridcolor: line, linecolor: line, zeroline: false, automargin: true, fixedrange: true };
    const layout = Object.assign({}, figure.layout, {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 12, color: ink },
      margin: { l: narrow ? 46 : 60, r: 12, t: 12, b: 44 },
      showlegend: false,
      hovermode: "closest",
      hoverlabel: {
        bgcolor: style.getPropertyValue("--page").trim(), bordercolor: line, align: "left", font: { color: ink, size: 12 },
      },
    });
    layout.xaxis = Object.assign({}, axis, figure.layout.xaxis);
    layout.yaxis = Object.assign({}, axis, figure.layout.yaxis);
    if (narrow || layout.compact) {
      const labels = layout.xaxis.ticktext;
      if (labels) layout.xaxis.ticktext = labels.map((text) => text.split("<br>")[0]);
      layout.yaxis.title = undefined;
    }
    Plotly.react(element, figure.data, layout, { displayModeBar: false, responsive: true, scrollZoom: false });
  }

  const folded = (element) => element.closest("details:not([open])") !== null;

  // What is folded is drawn when it is opened.
  function drawAll() {
    Object.keys(charts).filter((id) => !folded(document.getElementById(id))).forEach(draw);
  }

  document.querySelectorAll("details").forEach((fold) => {
    fold.addEventListener("toggle", () => {
      fold.querySelectorAll(".chart").forEach((element) => {
        if (!folded(element)) draw(element.id);
      });
    });
  });

  drawAll();
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth !== width) {
      width = window.innerWidth;
      drawAll();
    }
  });

  function sortKey(cell) {
    const value = cell.dataset.sort;
    if (value === undefined) return null;
    const number = value === "inf" ? Infinity : Number(value);
    return Number.isNaN(number) ? value : number;
  }

  // Missing values stay at the end whichever way the column is sorted.
  function sortTable(header) {
    const table = header.closest("table");
    const column = Array.from(header.parentNode.children).indexOf(header);
    const descending = header.getAttribute("aria-sort") === "ascending";
    const rows = Array.from(table.tBodies[0].rows);
    rows.sort((left, right) => {
      const a = sortKey(left.cells[column]);
      const b = sortKey(right.cells[column]);
      if (a === null || b === null) return (a === null) - (b === null);
      const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
      return descending ? -order : order;
    });
    table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    table.tBodies[0].append(...rows);
  }

  document.querySelectorAll("th button").forEach((button) => {
    button.addEventListener("click", () => sortTable(button.closest("th")));
  });
})();
