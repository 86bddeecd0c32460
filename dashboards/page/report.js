(() => {
  "use strict";
  const page = JSON.parse(document.getElementById("figures").textContent);
  const isNarrow = matchMedia("(max-width: 700px)");
  const isDark = matchMedia("(prefers-color-scheme: dark)");

  const recolor = (value) => {
    if (Array.isArray(value)) return value.map(recolor);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, recolor(one)]));
    }
    if (typeof value !== "string" || !isDark.matches) return value;
    const start = value.startsWith("rgba(") ? value.slice(0, value.lastIndexOf(",") + 1) : value;
    return start in page.dark ? page.dark[start] + value.slice(start.length) : value;
  };

  const drawOne = async ([id, figure]) => {
    const plot = document.getElementById(id);
    const data = recolor(figure.data);
    const layout = recolor(isNarrow.matches ? figure.narrow : figure.wide);
    const image = { filename: id, format: "svg" };
    const config = { ...page.config, toImageButtonOptions: image };
    try {
      await Plotly.react(plot, data, layout, config);
      plot.dataset.drawn = "true";
    } catch (fault) {
      plot.textContent = "This figure could not be drawn; its table below holds the numbers.";
      console.error(id, fault);
    }
  };

  const draw = () => Object.entries(page.figures).forEach(drawOne);
  isNarrow.addEventListener("change", draw);
  isDark.addEventListener("change", draw);
  draw();
})();
