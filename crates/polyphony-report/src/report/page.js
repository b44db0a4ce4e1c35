"use strict";
(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  // Okabe and Ito's colours for colour-blind readers, lighter on a dark background.
  const palettes = {
    light: ["#0072b2", "#d55e00", "#009e73", "#aa4499", "#b07a00", "#3a9bd1", "#6b7280", "#8a94a0"],
    dark: ["#56b4e9", "#ff8a3d", "#2fc99b", "#e29bc8", "#f0c04a", "#9ad4f5", "#a8b0ba", "#6f7883"],
  };
  const theme = () => root.dataset.theme;
  const style = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  const colour = (name) => {
    if (name === "$ink") return style("--ink");
    const solid = palettes[theme()][Number(name[1])];
    return name[0] === "$" ? solid : solid + "55";
  };
  // Only under these keys: a run may have a role called "$0".
  const colourKeys = new Set(["color", "fillcolor"]);
  const paint = (value) => {
    if (Array.isArray(value)) return value.map(paint);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, inner]) =>
        [key, colourKeys.has(key) ? colour(inner) : paint(inner)]));
    }
    return value;
  };

  const axis = (options) => ({
    gridcolor: style("--rule"), linecolor: style("--rule"), zerolinecolor: style("--rule"),
    automargin: true, ...options,
  });

  const draw = (chart) => {
    const { data, layout } = JSON.parse(document.getElementById(chart.dataset.chart).textContent);
    const small = chart.closest("figure").classList.contains("small");
    const hasTitle = layout.yaxis && layout.yaxis.title;
    Plotly.react(chart, paint(data), {
      ...paint(layout),
      height: layout.height || (small ? 240 : 340),
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: style("--ink"), family: "system-ui, sans-serif", size: 12 },
      margin: { t: 12, r: 12, b: 44, l: hasTitle ? 60 : 44 }, bargap: 0.3,
      xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis),
      hovermode: data.some((trace) => trace.orientation === "h") ? "closest" : "x unified",
      hoverlabel: { namelength: -1, bgcolor: style("--raised"), bordercolor: style("--rule"), font: { color: style("--ink") } },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
      // With several runs, even a single line needs a name.
      showlegend: root.dataset.runs > 1 || data.filter((trace) => trace.showlegend !== false).length > 1,
    }, { responsive: true, displaylogo: false, displayModeBar: false });
    chart.dataset.drawn = "yes";
  };

  const charts = [...document.querySelectorAll(".chart")];
  // Charts are drawn when they come into view, since a report may have hundreds.
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting && !entry.target.dataset.drawn) draw(entry.target);
    }
  }, { rootMargin: "400px" });

  const setTheme = (name) => {
    root.dataset.theme = name;
    charts.filter((chart) => chart.dataset.drawn).forEach(draw);
  };
  setTheme(dark.matches ? "dark" : "light");
  let isChosen = false;
  dark.addEventListener("change", () => { if (!isChosen) setTheme(dark.matches ? "dark" : "light"); });
  document.getElementById("theme").addEventListener("click", () => {
    isChosen = true;
    setTheme(theme() === "dark" ? "light" : "dark");
  });
  charts.forEach((chart) => watcher.observe(chart));

  // Printing uses the light theme and opens what is collapsed, except the charts of all metrics.
  let previousTheme;
  let opened = [];
  addEventListener("beforeprint", () => {
    previousTheme = theme();
    opened = [...document.querySelectorAll("details:not([open])")].filter((details) => !details.querySelector(".chart"));
    opened.forEach((details) => { details.open = true; });
    root.dataset.theme = "light";
    charts.filter((chart) => !chart.closest("details:not([open])")).forEach(draw);
  });
  addEventListener("afterprint", () => {
    opened.forEach((details) => { details.open = false; });
    setTheme(previousTheme);
  });
})();
