// Small components that several sections use.
"use strict";

report.parts = (() => {
  const { ref, computed, watch, onMounted, onBeforeUnmount, nextTick } = Vue;
  const { state, predictions } = report.store;
  const format = report.format;

  const Swatch = {
    props: { color: Array },
    setup: () => ({ format }),
    template: `<span class="swatch" :style="{ backgroundColor: format.rgb(color) }" aria-hidden="true"></span>`,
  };

  const KindBadge = {
    props: { kind: String },
    setup: (props) => ({ info: computed(() => report.measures.kindOf.get(props.kind)) }),
    template: `
      <span class="badge" :class="info ? 'pattern-' + info.pattern : ''" :title="info ? info.text : ''">{{
        info ? info.segment ?? info.label : kind }}</span>`,
  };

  // Buttons of which one is chosen. options: [{value, label}].
  const Choice = {
    props: { modelValue: {}, options: Array, label: String },
    emits: ["update:modelValue"],
    template: `
      <div class="choice" role="group" :aria-label="label">
        <button v-for="option in options" :key="option.value" type="button" :aria-pressed="option.value === modelValue"
          @click="$emit('update:modelValue', option.value)">{{ option.label }}</button>
      </div>`,
  };

  const PredictionChoice = {
    components: { Choice },
    setup: () => ({ state, options: computed(() => predictions.value.map((p, i) => ({ value: i, label: p.name }))) }),
    template: `<Choice v-if="options.length > 1" v-model="state.prediction" :options="options" label="Prediction"></Choice>`,
  };

  // Bar of where 100 PQ go: reached, lost by masks (SQ), by false positives and by missed segments (RQ).
  const LostBar = {
    props: { parts: Object },
    setup(props) {
      const shares = computed(() => [
        { key: "pq", label: "PQ", value: props.parts.pq },
        { key: "mask", label: "lost by inexact masks (SQ)", value: props.parts.mask },
        { key: "fp", label: "lost by false positives", value: props.parts.fp },
        { key: "fn", label: "lost by missed segments", value: props.parts.fn },
      ]);
      const text = computed(() =>
        shares.value.map((share) => `${format.percent(share.value)} ${share.label}`).join(", "),
      );
      return { shares, text, format };
    },
    template: `
      <div class="lost-bar" role="img" :aria-label="text" :title="text">
        <span v-for="share in shares" :key="share.key" :class="'lost-' + share.key" :style="format.width(share.value)"></span>
      </div>`,
  };

  const LostLegend = {
    template: `
      <ul class="legend" aria-label="Legend">
        <li><span class="key lost-pq"></span>PQ</li>
        <li><span class="key lost-mask"></span>lost by inexact masks (SQ)</li>
        <li><span class="key lost-fp"></span>lost by false positives (RQ)</li>
        <li><span class="key lost-fn"></span>lost by missed segments (RQ)</li>
      </ul>`,
  };

  // Head of a column that sorts the table. sort: {key, descending}.
  const SortHead = {
    props: { sort: Object, name: String, label: String, descendingFirst: Boolean, title: String },
    setup(props) {
      const active = computed(() => props.sort.key === props.name);
      const press = () => {
        const { sort } = props;
        sort.descending = active.value ? !sort.descending : props.descendingFirst;
        sort.key = props.name;
      };
      const order = computed(() => (active.value ? (props.sort.descending ? "descending" : "ascending") : "none"));
      return { active, press, order };
    },
    template: `
      <th scope="col" :aria-sort="order">
        <button type="button" class="sort" :title="title" @click="press"><span aria-hidden="true" class="arrow">{{
          active ? (sort.descending ? "▼" : "▲") : "" }}</span>{{ label }}</button>
      </th>`,
  };

  // Difference of two predictions in PQ points, green or red by its sign.
  const Delta = {
    props: { value: Number },
    setup: () => ({ format }),
    template: `<span class="delta" :class="{ up: value > 0, down: value < 0 }"><slot></slot>{{ format.signed(value) }}</span>`,
  };

  // Photo or thumbnail; an empty frame if the file does not exist.
  const Picture = {
    props: { src: String, alt: String },
    setup(props) {
      const missing = ref(false);
      watch(
        () => props.src,
        () => (missing.value = false),
      );
      return { missing };
    },
    template: `<img v-if="src && !missing" :src="src" :alt="alt" decoding="async" draggable="false" @error="missing = true">
      <span v-else class="no-picture" :title="alt">no photo</span>`,
  };

  // Only the rows that are in view are in the document. Each item has the height `rowHeight`; `columns` of them are in one row.
  const VirtualRows = {
    props: { items: Array, rowHeight: Number, columns: { type: Number, default: 1 }, label: String },
    setup(props) {
      const root = ref(null);
      const range = ref([0, 0]);
      const SPARE = 4; // rows above and below the view
      const rows = computed(() => Math.ceil(props.items.length / props.columns));
      const update = () => {
        if (!root.value) return;
        const above = -root.value.getBoundingClientRect().top;
        const first = Math.max(0, Math.floor(above / props.rowHeight) - SPARE);
        const last = Math.min(rows.value, Math.ceil((above + window.innerHeight) / props.rowHeight) + SPARE);
        if (first !== range.value[0] || last !== range.value[1]) range.value = [first, Math.max(first, last)];
      };
      const shown = computed(() => {
        const [first, last] = range.value;
        const start = first * props.columns;
        return props.items.slice(start, last * props.columns).map((item, k) => ({ item, place: start + k }));
      });
      onMounted(() => {
        addEventListener("scroll", update, { passive: true });
        addEventListener("resize", update, { passive: true });
        update();
      });
      onBeforeUnmount(() => {
        removeEventListener("scroll", update);
        removeEventListener("resize", update);
      });
      watch(
        () => [props.items, props.rowHeight, props.columns],
        () => nextTick(update),
      );
      return { root, rows, range, shown };
    },
    template: `
      <div ref="root" class="virtual" role="list" :aria-label="label" :style="{ height: rows * rowHeight + 'px' }">
        <div class="virtual-window" :style="{ transform: 'translateY(' + range[0] * rowHeight + 'px)', '--columns': columns }">
          <div v-for="row in shown" :key="row.item" role="listitem" :aria-posinset="row.place + 1" :aria-setsize="items.length"
            :style="{ height: rowHeight + 'px' }"><slot :item="row.item"></slot></div>
        </div>
      </div>`,
  };

  // A chart of Chart.js; `make(colors)` returns its configuration and is called again when the data or the color scheme change.
  const ChartView = {
    props: { make: Function, label: String },
    setup(props) {
      const canvas = ref(null);
      const scheme = matchMedia("(prefers-color-scheme: dark)");
      let chart = null;
      const draw = () => {
        chart?.destroy();
        const style = getComputedStyle(document.documentElement);
        const color = (name) => style.getPropertyValue(`--${name}`).trim();
        Chart.defaults.color = color("muted");
        Chart.defaults.borderColor = color("line");
        Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
        chart = new Chart(canvas.value, props.make(color));
      };
      onMounted(() => {
        draw();
        scheme.addEventListener("change", draw);
      });
      onBeforeUnmount(() => {
        scheme.removeEventListener("change", draw);
        chart?.destroy();
      });
      watch(() => props.make, draw, { flush: "post" });
      return { canvas };
    },
    template: `<div class="chart"><canvas ref="canvas" role="img" :aria-label="label"></canvas></div>`,
  };

  // Whether the page is as narrow as a phone; changes with the window.
  const narrow = ref(false);
  const narrowQuery = matchMedia("(max-width: 640px)");
  narrow.value = narrowQuery.matches;
  narrowQuery.addEventListener("change", () => (narrow.value = narrowQuery.matches));

  return {
    Swatch,
    KindBadge,
    Choice,
    PredictionChoice,
    LostBar,
    LostLegend,
    SortHead,
    Delta,
    Picture,
    VirtualRows,
    ChartView,
    narrow,
  };
})();
