// Section "Images": all images as a list or as a grid, of which only the visible part is in the document.
"use strict";

report.Images = (() => {
  const { ref, computed, watch, onMounted, onBeforeUnmount } = Vue;
  const { state, order, predictions, pair, delta, scored, imageHref } = report.store;
  const { Choice, PredictionChoice, Picture, VirtualRows, Delta, narrow } = report.parts;
  const format = report.format;

  const grid = ref(false); // stays as chosen when the section is left

  const setup = () => {
    const width = ref(window.innerWidth);
    const measure = () => (width.value = window.innerWidth);
    onMounted(() => addEventListener("resize", measure, { passive: true }));
    onBeforeUnmount(() => removeEventListener("resize", measure));

    watch(
      () => state.prediction,
      (prediction) => (state.sort.prediction = prediction),
      { immediate: true },
    );

    const layouts = [
      { value: false, label: "List" },
      { value: true, label: "Grid" },
    ];
    const columns = computed(() => (grid.value ? Math.max(2, Math.floor(Math.min(width.value - 32, 1368) / 220)) : 1));
    const rowHeight = computed(() => (grid.value ? (narrow.value ? 190 : 230) : narrow.value ? 104 : 84));
    const images = computed(() => state.index.images);
    const hasProblems = computed(() => images.value.some((image) => image.problems));
    const sorts = computed(() =>
      [
        ...(scored.value
          ? [
              ["pq", "PQ", false],
              ["fp", "FP", true],
              ["fn", "FN", true],
            ]
          : []),
        ...(pair.value ? [["delta", "Δ PQ", false]] : []),
        ["name", "Name", false],
      ].map(([key, label, descending]) => ({ key, label, descending })),
    );
    const press = ({ key, descending }) => {
      state.sort.descending = state.sort.key === key ? !state.sort.descending : descending;
      state.sort.key = key;
    };
    const arrow = (key) => (state.sort.key === key ? (state.sort.descending ? "▼" : "▲") : "");
    const pairNames = computed(
      () => pair.value && `${predictions.value[pair.value.b].name} minus ${predictions.value[pair.value.a].name}`,
    );
    return {
      state,
      order,
      predictions,
      pair,
      pairNames,
      delta,
      scored,
      imageHref,
      grid,
      layouts,
      columns,
      rowHeight,
      images,
      hasProblems,
      sorts,
      press,
      arrow,
      thumb: report.data.thumbUrl,
      format,
    };
  };

  return {
    components: { Choice, PredictionChoice, Picture, VirtualRows, Delta },
    setup,
    template: `
      <section aria-labelledby="images-title">
        <header class="section-head"><h2 id="images-title">Images</h2><PredictionChoice v-if="scored"></PredictionChoice>
          <Choice v-model="grid" :options="layouts" label="Layout"></Choice></header>
        <div class="toolbar">
          <input type="search" v-model="state.filter" placeholder="Filter by name" aria-label="Filter by name" spellcheck="false">
          <div class="choice" role="group" aria-label="Sort by">
            <button v-for="item in sorts" :key="item.key" type="button" :aria-pressed="state.sort.key === item.key"
              :title="item.key === 'delta' ? pairNames : ''" @click="press(item)">{{ item.label }} <span class="arrow">{{
              arrow(item.key) }}</span></button>
          </div>
          <label v-if="hasProblems" class="check"><input type="checkbox" v-model="state.onlyProblems"> with problems</label>
          <p class="hint" role="status">{{ format.plural(order.length, 'image') }}{{
            order.length === images.length ? '' : ' of ' + format.count(images.length) }}</p>
        </div>
        <p v-if="!order.length" class="card hint">No image matches the filter.</p>
        <VirtualRows :items="order" :row-height="rowHeight" :columns="columns" :class="grid ? 'as-grid' : 'as-list'" label="Images"
          v-slot="{ item }">
          <a class="image-row" :href="imageHref(item)">
            <span class="thumb"><Picture :src="thumb(images[item])" alt=""></Picture></span>
            <span class="name"><span class="file">{{ images[item].name }}</span>
              <small v-if="images[item].problems" class="problem">{{ images[item].problems[0] }}</small></span>
            <span v-if="scored" class="scores">
              <span v-for="(p, k) in predictions" :key="k" class="score" :class="{ current: k === state.prediction }">
                <span class="score-name" v-if="predictions.length > 1">{{ p.name }}</span>
                <span class="bar-track"><span class="lost-pq" :style="format.width(images[item].pq?.[k])"></span></span>
                <b>{{ format.percent(images[item].pq?.[k]) }}</b>
              </span>
            </span>
            <span v-if="scored" class="counts">
              <Delta v-if="pair" :value="delta(images[item])" :title="pairNames">Δ </Delta>
              <span class="text-fp">{{ format.count(images[item].fp?.[state.prediction]) }} FP</span>
              <span class="text-fn">{{ format.count(images[item].fn?.[state.prediction]) }} FN</span></span>
          </a>
        </VirtualRows>
      </section>`,
  };
})();
