// State that the sections share, and the address: "#/images", "#/image/000001?side=gt&segment=3".
"use strict";

report.store = (() => {
  const { reactive, markRaw, computed } = Vue;
  const { known } = report.format;

  const state = reactive({
    index: null,
    failure: "",
    prediction: 0, // shown by sections of one prediction
    pair: 0, // row of index.compare
    section: "summary",
    image: -1, // index of the image in the viewer
    query: {},
    sort: { key: "name", descending: false, prediction: 0 }, // of the image list; the viewer follows it with any prediction
    filter: "",
    onlyProblems: false,
    layers: {
      photo: { on: true, opacity: 100 },
      truth: { on: false, opacity: 60 },
      prediction: { on: false, opacity: 60 },
      errors: { on: true, opacity: 85 },
    },
    sideBySide: false,
    shownKinds: report.measures.KINDS.map((kind) => kind.code), // error codes in the error layer
  });

  function setIndex(index) {
    state.index = markRaw(index);
    const scored = index.images.some((image) => image.pq?.some(known));
    if (scored) state.sort.key = "pq";
    if (!scored) state.layers[index.predictions.length ? "prediction" : "truth"].on = true;
  }

  const predictions = computed(() => state.index?.predictions ?? []);
  const categories = computed(() => state.index?.categories ?? []);
  const scored = computed(() =>
    categories.value.some((category) => category.results?.some((result) => known(result?.pq))),
  );
  const pair = computed(() => state.index?.compare?.[state.pair] ?? null);

  const delta = (image) => {
    const { a, b } = pair.value ?? {};
    const [before, after] = [image.pq?.[a], image.pq?.[b]];
    return known(before) && known(after) ? after - before : null;
  };

  // Values that the image list can be sorted by.
  const sortKeys = {
    pq: (image) => image.pq?.[state.sort.prediction],
    fp: (image) => image.fp?.[state.sort.prediction],
    fn: (image) => image.fn?.[state.sort.prediction],
    delta,
    name: (image) => image.name,
  };

  // Indices of the images that pass the filter, in the order of the list.
  const order = computed(() => {
    const images = state.index?.images ?? [];
    const words = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
    const kept = [];
    images.forEach((image, i) => {
      const name = image.name.toLowerCase();
      if (words.every((word) => name.includes(word)) && (!state.onlyProblems || image.problems)) kept.push(i);
    });
    const value = sortKeys[state.sort.key] ?? sortKeys.name;
    const values = new Map(kept.map((i) => [i, value(images[i])]));
    return kept.sort(
      (i, j) => report.measures.compareValues(values.get(i), values.get(j), state.sort.descending) || i - j,
    );
  });

  // Sections that have content, in the order of the tabs.
  const sections = computed(() => {
    const index = state.index;
    if (!index) return [];
    const tabs = [
      { key: "summary", label: "Summary", full: true },
      { key: "classes", label: "Classes", full: scored.value },
      { key: "confusion", label: "Confusion", full: index.confusion?.length },
      { key: "images", label: "Images", full: index.images.length },
      { key: "worst", label: "Worst segments", full: index.worst?.some((classes) => Object.keys(classes).length) },
      { key: "compare", label: "Compare", full: index.compare?.length },
    ];
    return tabs.filter((tab) => tab.full);
  });

  const imageHref = (i, query = {}) => {
    const text = new URLSearchParams(query).toString();
    return `#/image/${encodeURIComponent(state.index.images[i].id)}${text ? `?${text}` : ""}`;
  };

  function readAddress() {
    const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
    const [section, id] = path.split("/");
    state.query = Object.fromEntries(new URLSearchParams(query));
    const wanted = Number(state.query.prediction);
    if (state.query.prediction !== undefined && predictions.value[wanted]) state.prediction = wanted;
    state.image = -1;
    if (section === "image") {
      state.image = state.index.images.findIndex((image) => encodeURIComponent(image.id) === id);
      state.section = state.image < 0 ? "images" : "image";
    } else {
      state.section = sections.value.some((tab) => tab.key === section) ? section : "summary";
    }
  }

  return { state, setIndex, predictions, categories, scored, pair, delta, order, sections, imageHref, readAddress };
})();
