// Section "Classes": PQ = SQ x RQ of each class, with TP, FP and FN; sortable.
"use strict";

report.Classes = (() => {
  const { reactive, ref, computed } = Vue;
  const { state, categories, scored } = report.store;
  const { Swatch, Choice, PredictionChoice, LostBar, LostLegend, SortHead } = report.parts;
  const { lostPq, compareValues } = report.measures;
  const format = report.format;

  const setup = () => {
    const sort = reactive({ key: scored.value ? "pq" : "segments", descending: !scored.value });
    const group = ref("all");
    const groups = [
      { value: "all", label: "All" },
      { value: "things", label: "Things" },
      { value: "stuff", label: "Stuff" },
    ];
    const totals = computed(() => categories.value.reduce((sum, category) => sum + (category.pixels ?? 0), 0));
    const all = computed(() =>
      categories.value.map((category, i) => {
        const result = category.results?.[state.prediction] ?? {};
        const lost = lostPq(result);
        return { i, category, name: category.name, ...result, ...counts(category, totals.value), lost };
      }),
    );
    const rows = computed(() =>
      all.value
        .filter((row) => group.value === "all" || row.category.isthing === (group.value === "things"))
        .sort((a, b) => compareValues(a[sort.key], b[sort.key], sort.descending) || a.i - b.i),
    );
    const has = computed(() => ({
      images: all.value.some((row) => format.known(row.images)),
      crowds: all.value.some((row) => row.crowds),
      pixels: totals.value > 0,
    }));
    const worstHref = (row) =>
      state.index.worst?.[state.prediction]?.[row.i]?.length ? `#/worst?class=${row.i}` : null;
    const most = computed(() => Math.max(...all.value.map((row) => row.share ?? 0)));
    return { sort, group, groups, rows, has, worstHref, most, scored, format };
  };

  const counts = ({ segments, pixels, images, crowds }, total) => ({
    segments,
    images,
    crowds,
    share: total ? (100 * pixels) / total : null,
  });

  return {
    components: { Swatch, Choice, PredictionChoice, LostBar, LostLegend, SortHead },
    setup,
    template: `
      <section aria-labelledby="classes-title">
        <header class="section-head"><h2 id="classes-title">Classes</h2><PredictionChoice v-if="scored"></PredictionChoice>
          <Choice v-model="group" :options="groups" label="Kind of class"></Choice></header>
        <p v-if="scored" class="hint">PQ = SQ × RQ. SQ is the mean IoU of the matched segments, RQ = TP / (TP + FP/2 + FN/2).</p>
        <article class="card">
          <LostLegend v-if="scored"></LostLegend>
          <table class="classes" :class="{ scored }">
            <thead><tr>
              <SortHead :sort="sort" name="name" label="Class"></SortHead>
              <template v-if="scored">
                <SortHead :sort="sort" name="pq" label="PQ" class="number"></SortHead>
                <td aria-hidden="true"></td>
                <SortHead :sort="sort" name="sq" label="SQ" title="Mean IoU of the matched segments" class="number"></SortHead>
                <SortHead :sort="sort" name="rq" label="RQ" title="F1 of the segments: TP / (TP + FP/2 + FN/2)" class="number"></SortHead>
                <SortHead :sort="sort" name="tp" label="TP" descending-first class="number"></SortHead>
                <SortHead :sort="sort" name="fp" label="FP" descending-first class="number"></SortHead>
                <SortHead :sort="sort" name="fn" label="FN" descending-first class="number"></SortHead>
              </template>
              <SortHead :sort="sort" name="segments" label="Segments" descending-first title="Segments in the ground truth"
                class="number"></SortHead>
              <SortHead v-if="has.images" :sort="sort" name="images" label="Images" descending-first class="number"></SortHead>
              <SortHead v-if="has.crowds" :sort="sort" name="crowds" label="Crowds" descending-first class="number"></SortHead>
              <SortHead v-if="has.pixels" :sort="sort" name="share" label="Pixels" descending-first title="Percent of all labeled pixels"
                class="number"></SortHead>
            </tr></thead>
            <tbody>
              <tr v-for="row in rows" :key="row.i">
                <th scope="row" class="class-name"><Swatch :color="row.category.color"></Swatch><a v-if="worstHref(row)" :href="worstHref(row)"
                  title="Shows its worst segments">{{ row.name }}</a><span v-else>{{ row.name }}</span>
                  <small>{{ row.category.isthing ? 'thing' : 'stuff' }}</small></th>
                <template v-if="scored">
                  <td class="number strong" data-label="PQ" :data-value="row.pq">{{ format.percent(row.pq) }}</td>
                  <td class="wide"><LostBar v-if="row.lost" :parts="row.lost"></LostBar><span v-else class="hint">no segments</span></td>
                  <td class="number measure-cell" data-label="SQ"><i class="meter" :style="format.width(row.sq)"></i>{{ format.percent(row.sq) }}</td>
                  <td class="number measure-cell" data-label="RQ"><i class="meter" :style="format.width(row.rq)"></i>{{ format.percent(row.rq) }}</td>
                  <td class="number" data-label="TP">{{ format.count(row.tp) }}</td>
                  <td class="number text-fp" data-label="FP">{{ format.count(row.fp) }}</td>
                  <td class="number text-fn" data-label="FN">{{ format.count(row.fn) }}</td>
                </template>
                <td class="number" data-label="Segments">{{ format.count(row.segments) }}</td>
                <td v-if="has.images" class="number" data-label="Images">{{ format.count(row.images) }}</td>
                <td v-if="has.crowds" class="number" data-label="Crowds">{{ format.count(row.crowds) }}</td>
                <td v-if="has.pixels" class="number measure-cell" data-label="Pixels">
                  <i class="meter" :style="format.width(100 * row.share / most)"></i>{{ format.percent(row.share) }}%</td>
              </tr>
            </tbody>
          </table>
        </article>
      </section>`,
  };
})();
