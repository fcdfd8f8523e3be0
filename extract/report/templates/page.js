"use strict";
// What a page does with a script: charts by uPlot, waveforms and spectrograms by wavesurfer.js, and
// tables that sort. Without it, players, pictures and tables are there all the same.
(() => {
  const SERIES = ["one", "two", "three"]; // colours of page.css
  const DASHES = [[], [6, 3], [2, 3]]; // lines differ without their colours too
  const CHART_HEIGHT = 150;
  const TICK_WIDTH = 46; // pixels that a label of a histogram's axis needs
  const MEL = { scale: "mel", fftSamples: 512, frequencyMax: 8000, autoGain: true, rangeDB: 80, colorMap: "roseus" };

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const inShort = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
  const inFull = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
  const isTiny = (value) => value !== 0 && Math.abs(value) < 1e-3;
  const label = (value) => (isTiny(value) ? value.toExponential(1) : inShort.format(value));

  // Charts: what `extract/report/charts.py` calls `data`.

  const axis = (more) => ({
    stroke: () => colour("dim"),
    grid: { stroke: () => colour("line"), width: 1 },
    ticks: { show: false },
    font: "11px system-ui, sans-serif",
    ...more,
  });

  function barOptions(data) {
    const aligned = data.values.length > 1 ? [-1, 1] : [0];
    const size = 0.84 / data.values.length;
    const places = data.ticks.map(([place]) => place);
    const texts = new Map(data.ticks);
    const few = (u) => {
      const every = Math.max(1, Math.ceil((places.length * TICK_WIDTH) / u.bbox.width * devicePixelRatio));
      return places.filter((_place, number) => number % every === 0);
    };
    return {
      xs: data.labels.map((_label, place) => place),
      xScale: { time: false, range: [-0.5, data.labels.length - 0.5] },
      xAxis: axis({ grid: { show: false }, size: 24, splits: few, values: (_u, splits) => splits.map((place) => texts.get(place)) }),
      xSeries: { label: "", value: (_u, _v, _si, place) => (place == null ? "" : `${data.labels[place]} ${data.unit}`) },
      series: (number) => ({
        fill: () => colour(SERIES[number]),
        width: 0,
        paths: uPlot.paths.bars({ align: aligned[number], size: [size, 64] }),
        points: { show: false },
      }),
    };
  }

  function lineOptions(data) {
    return {
      xs: data.x,
      xScale: { time: false },
      xAxis: axis({ grid: { show: false }, size: 24, values: (_u, splits) => splits.map((second) => `${inShort.format(second)} s`) }),
      xSeries: { label: "", value: (_u, second) => (second == null ? "" : `${inFull.format(second)} s`) },
      series: (number) => ({ width: 2, dash: DASHES[number], points: { show: data.x.length < 3 } }),
    };
  }

  // Numbers of jobs over a setting: a point for each, and a line for each of the other settings.
  function settingOptions(data) {
    const texts = new Map(data.x.map((x, place) => [x, data.labels[place]]));
    const few = (u) => {
      const every = Math.ceil((data.x.length * TICK_WIDTH) / (u.bbox.width / devicePixelRatio));
      return data.x.filter((_x, place) => place % every === 0);
    };
    return {
      xs: data.x,
      xScale: { time: false, range: (_u, low, high) => [low - 0.06 * (high - low || 1), high + 0.06 * (high - low || 1)] },
      yScale: {},
      xAxis: axis({ grid: { show: false }, size: 24, splits: few, values: (_u, splits) => splits.map((x) => texts.get(x)) }),
      xSeries: { label: data.setting, value: (_u, _v, _si, place) => data.labels[place] ?? "" },
      series: (number) => ({ width: 2, dash: DASHES[(number + Math.floor(number / 3)) % 3], points: { show: true, size: 7 } }),
    };
  }

  const KINDS = { bars: barOptions, lines: lineOptions, settings: settingOptions };

  function drawChart(box) {
    const data = JSON.parse(box.nextElementSibling.textContent);
    const own = KINDS[data.kind](data);
    const series = data.names.map((name, number) => ({
      label: name,
      stroke: () => colour(SERIES[number % 3]),
      value: (_u, value) => (value == null ? "" : isTiny(value) ? label(value) : inFull.format(value)),
      ...own.series(number),
    }));
    const options = {
      width: box.clientWidth,
      height: CHART_HEIGHT,
      padding: [8, 12, 0, 0],
      cursor: { y: false, drag: { x: false, y: false } },
      scales: { x: own.xScale, y: own.yScale ?? { range: (_u, _low, high) => [0, high || 1] } },
      axes: [own.xAxis, axis({ size: 44, values: (_u, splits) => splits.map(label) })],
      series: [own.xSeries, ...series],
    };
    return new uPlot(options, [own.xs, ...data.values], box);
  }

  const charts = new Map();
  const redraw = (box) => {
    charts.get(box)?.destroy();
    charts.set(box, drawChart(box));
  };
  const resized = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const chart = charts.get(target);
      if (chart && target.clientWidth !== chart.width) chart.setSize({ width: target.clientWidth, height: CHART_HEIGHT });
    }
  });

  // Sounds: an <audio> that wavesurfer.js takes over, and a cursor over all pictures beside it.

  const waves = new Map();
  const waveColours = () => ({ waveColor: colour("wave"), progressColor: colour("one") });

  function drawSound(stack) {
    const audio = stack.parentElement.querySelector("audio");
    const seconds = Number(stack.dataset.seconds);
    audio.preload = "metadata"; // shows how long it is
    const mel = stack.querySelector(".mel"); // none of a sound shorter than its window
    const wave = WaveSurfer.create({
      ...waveColours(),
      container: stack.querySelector(".wave"),
      media: audio,
      duration: seconds,
      height: 64,
      sampleRate: 16000,
      cursorWidth: 0,
      hideScrollbar: true,
      plugins: mel ? [WaveSurfer.Spectrogram.create({ ...MEL, container: mel, height: 96 })] : [],
    });
    waves.set(stack, wave);
    wave.on("ready", () => stack.classList.add("ready"));
    wave.on("error", () => stack.classList.add("undrawn")); // the player is there all the same
    const cursor = document.createElement("div");
    cursor.className = "cursor";
    cursor.hidden = true;
    stack.append(cursor);
    wave.on("timeupdate", (second) => {
      cursor.hidden = false;
      cursor.style.left = `${Math.min(100, (100 * second) / seconds)}%`;
    });
    for (const picture of stack.querySelectorAll("img")) {
      picture.addEventListener("click", (event) => {
        const box = stack.getBoundingClientRect();
        wave.setTime((seconds * (event.clientX - box.left)) / box.width);
      });
    }
  }

  const seen = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting && !waves.has(target)) {
          seen.unobserve(target);
          drawSound(target);
        }
      }
    },
    { rootMargin: "200px" },
  );

  // Tables: a button in each column's head, which sorts by that column.

  const number = (text) => (/^-?[\d,]*\.?\d+(e[+-]\d+)? ?%?$/.test(text) ? parseFloat(text.replaceAll(",", "")) : NaN);
  const collator = new Intl.Collator("en", { numeric: true });

  function compared(a, b) {
    const [x, y] = [number(a), number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? collator.compare(a, b) : x - y;
  }

  function sort(table, head, column) {
    const falls = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", falls ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows];
    const text = (row) => row.cells[column].textContent.trim();
    rows.sort((a, b) => (falls ? -1 : 1) * compared(text(a), text(b)));
    table.tBodies[0].append(...rows);
  }

  function makeSortable(table) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      button.addEventListener("click", () => sort(table, head, column));
      head.replaceChildren(button);
      head.setAttribute("aria-sort", "none");
    });
  }

  document.documentElement.classList.add("scripted");
  for (const box of document.querySelectorAll(".chart")) {
    redraw(box);
    resized.observe(box);
  }
  for (const stack of document.querySelectorAll(".stack:has(.wave)")) seen.observe(stack);
  document.querySelectorAll("table.sortable").forEach(makeSortable);
  document.addEventListener(
    "play",
    (event) => {
      for (const other of document.querySelectorAll("audio")) if (other !== event.target) other.pause();
    },
    true,
  );
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const box of charts.keys()) redraw(box);
    for (const wave of waves.values()) wave.setOptions(waveColours());
  });
})();
