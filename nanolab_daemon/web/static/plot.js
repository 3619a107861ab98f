// Values read off a run's plot, by pointer and by keys; a segment shown alone while its name is pointed at.
"use strict";

(() => {
  const box = document.getElementById("plot-box");
  if (!box) return;
  const plot = document.getElementById("plot");
  const cursor = document.getElementById("cursor");
  const readout = document.getElementById("readout");
  const log = Boolean(box.dataset.log);
  const frame = Object.fromEntries(["left", "top", "right", "bottom"].map((side) => [side, Number(plot.dataset[side])]));
  let points = null;
  let at = -1;
  let loading = null;

  // The drawing says where its points are; the numbers come from the server, in the same order.
  const drawn = () => {
    const groups = [...plot.querySelectorAll("g.series")];
    const used = groups.length > 1 ? groups.slice(1) : groups;
    return used.map((group) => {
      const line = group.querySelector("polyline");
      return line ? [...line.points].map((point) => [point.x, point.y]) : [];
    });
  };

  const load = () => (loading ??= fetchPoints());

  const fetchPoints = async () => {
    const answer = await fetch(box.dataset.points);
    if (!answer.ok) return;
    const told = await answer.json();
    const places = drawn();
    points = [];
    told.series.forEach((series, number) => {
      const kept = series.x.map((_, i) => i).filter((i) => !log || series.y[i] !== 0);
      kept.forEach((i, n) => {
        const place = places[number]?.[n];
        if (place) points.push({ name: series.name, x: series.x[i], y: series.y[i], px: place[0], py: place[1] });
      });
    });
    points.labels = [told.x, told.y];
  };

  const written = (value) => {
    const size = Math.abs(value);
    return size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(4) : String(Number(value.toPrecision(6)));
  };

  const show = (number) => {
    at = number;
    const point = points[at];
    cursor.setAttribute("visibility", "visible");
    cursor.setAttribute("transform", `translate(${point.px} ${point.py})`);
    const name = point.name ? `${point.name.replaceAll("_", " ")}: ` : "";
    readout.textContent = `${name}${points.labels[0]} = ${written(point.x)}, ${points.labels[1]} = ${written(point.y)}`;
  };

  const read = async (event) => {
    await load();
    if (!points?.length) return;
    const bounds = plot.getBoundingClientRect();
    const x = ((event.clientX - bounds.left) / bounds.width) * plot.viewBox.baseVal.width;
    const y = ((event.clientY - bounds.top) / bounds.height) * plot.viewBox.baseVal.height;
    if (x < frame.left - 8 || x > frame.right + 8) return;
    let best = 0;
    let least = Infinity;
    points.forEach((point, number) => {
      const far = (point.px - x) ** 2 + (point.py - y) ** 2;
      if (far < least) [best, least] = [number, far];
    });
    show(best);
  };
  box.addEventListener("pointermove", read);
  box.addEventListener("pointerdown", read); // a finger that taps does not move
  box.addEventListener("focus", load);
  box.addEventListener("keydown", async (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1, PageDown: 10, PageUp: -10 }[event.key];
    if (!by) return;
    event.preventDefault();
    await load();
    if (points?.length) show(Math.max(0, Math.min(points.length - 1, at + by)));
  });
  for (const item of document.querySelectorAll(".legend li")) {
    const alone = (on) => {
      plot.classList.toggle("alone", on);
      plot.querySelector(`g.series[data-series="${item.dataset.series}"]`)?.classList.toggle("chosen", on);
    };
    item.addEventListener("pointerenter", () => alone(true));
    item.addEventListener("pointerleave", () => alone(false));
  }
})();
