"use strict";
(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  // Okabe and Ito's colours for colour-blind readers, lightened where paper is dark.
  const palettes = {
    light: ["#0072b2", "#d55e00", "#009e73", "#aa4499", "#b07a00", "#3a9bd1", "#6b7280", "#8a94a0"],
    dark: ["#56b4e9", "#ff8a3d", "#2fc99b", "#e29bc8", "#f0c04a", "#9ad4f5", "#a8b0ba", "#6f7883"],
  };
  const theme = () => root.dataset.theme;
  const style = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  const colour = (name) => {
    if (name === "$ink") return style("--ink");
    const own = palettes[theme()][Number(name[1])];
    return name[0] === "$" ? own : own + "55";
  };
  // Under these keys alone: a run may have called a role "$0".
  const colours = new Set(["color", "fillcolor"]);
  const paint = (value) => {
    if (Array.isArray(value)) return value.map(paint);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, inner]) =>
        [key, colours.has(key) ? colour(inner) : paint(inner)]));
    }
    return value;
  };

  const axis = (own) => ({
    gridcolor: style("--rule"), linecolor: style("--rule"), zerolinecolor: style("--rule"),
    automargin: true, ...own,
  });

  const draw = (place) => {
    const { data, layout } = JSON.parse(document.getElementById(place.dataset.chart).textContent);
    const small = place.closest("figure").classList.contains("small");
    const named = layout.yaxis && layout.yaxis.title;
    Plotly.react(place, paint(data), {
      ...paint(layout),
      height: layout.height || (small ? 240 : 340),
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: style("--ink"), family: "system-ui, sans-serif", size: 12 },
      margin: { t: 12, r: 12, b: 44, l: named ? 60 : 44 }, bargap: 0.3,
      xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis),
      hovermode: data.some((trace) => trace.orientation === "h") ? "closest" : "x unified",
      hoverlabel: { namelength: -1, bgcolor: style("--raised"), bordercolor: style("--rule"), font: { color: style("--ink") } },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
      // A line alone needs a name where it may be of one of several runs.
      showlegend: root.dataset.runs > 1 || data.filter((trace) => trace.showlegend !== false).length > 1,
    }, { responsive: true, displaylogo: false, displayModeBar: false });
    place.dataset.drawn = "yes";
  };

  const places = [...document.querySelectorAll(".chart")];
  // Charts are drawn when they come into sight: a report may have hundreds.
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting && !entry.target.dataset.drawn) draw(entry.target);
    }
  }, { rootMargin: "400px" });

  const choose = (name) => {
    root.dataset.theme = name;
    places.filter((place) => place.dataset.drawn).forEach(draw);
  };
  choose(dark.matches ? "dark" : "light");
  let chosen = false;
  dark.addEventListener("change", () => { if (!chosen) choose(dark.matches ? "dark" : "light"); });
  document.getElementById("theme").addEventListener("click", () => {
    chosen = true;
    choose(theme() === "dark" ? "light" : "dark");
  });
  places.forEach((place) => watcher.observe(place));

  // Paper is white, and nobody can open anything on it; all metrics one by one stay closed.
  let before;
  let opened = [];
  addEventListener("beforeprint", () => {
    before = theme();
    opened = [...document.querySelectorAll("details:not([open])")].filter((closed) => !closed.querySelector(".chart"));
    opened.forEach((closed) => { closed.open = true; });
    root.dataset.theme = "light";
    places.filter((place) => !place.closest("details:not([open])")).forEach(draw);
  });
  addEventListener("afterprint", () => {
    opened.forEach((open) => { open.open = false; });
    choose(before);
  });
})();
