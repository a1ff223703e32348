// Section "Worst segments": the largest errors of each class, each a link to its place in its image.
"use strict";

report.Worst = (() => {
  const { ref, computed, watch } = Vue;
  const { state, categories, imageHref } = report.store;
  const { Swatch, KindBadge, PredictionChoice, Picture, narrow } = report.parts;
  const format = report.format;

  // Style of a photo that shows a box (fractions) with a margin in a frame: the photo is scaled and moved.
  function cropStyle(box, size) {
    const [height, width] = size;
    const longest = Math.max(width, height);
    const wanted = 1.5 * Math.max((box[2] - box[0]) * width, (box[3] - box[1]) * height);
    const side = Math.min(longest, Math.max(wanted, 0.18 * longest)); // of the square that is shown, in pixels
    const clamp = (center, whole) =>
      whole <= side ? (whole - side) / 2 : Math.min(Math.max(0, center * whole - side / 2), whole - side);
    const left = clamp((box[0] + box[2]) / 2, width);
    const top = clamp((box[1] + box[3]) / 2, height);
    const part = (value) => `${(100 * value) / side}%`;
    return {
      photo: { width: part(width), height: part(height), left: part(-left), top: part(-top) },
      box: {
        left: part(box[0] * width - left),
        top: part(box[1] * height - top),
        width: part((box[2] - box[0]) * width),
        height: part((box[3] - box[1]) * height),
      },
    };
  }

  const setup = () => {
    const classes = computed(() => {
      const lists = state.index.worst?.[state.prediction] ?? {};
      return categories.value
        .map((category, i) => ({ i, category, entries: lists[i] ?? [] }))
        .filter((item) => item.entries.length);
    });
    const chosen = ref(-1); // class, -1: all
    watch(
      () => state.query.class,
      (value) => (chosen.value = value === undefined ? -1 : Number(value)),
      { immediate: true },
    );
    const shown = computed(() => {
      const one = classes.value.filter((item) => item.i === chosen.value);
      const all = one.length ? one : classes.value;
      return all.map((item) => ({
        ...item,
        cards: item.entries.slice(0, one.length ? undefined : narrow.value ? 4 : 6).map(card),
      }));
    });
    const card = (entry) => {
      const image = state.index.images[entry.image];
      const crop = entry.bbox && image.size && image.photo ? cropStyle(entry.bbox, image.size) : null;
      const src = crop ? report.data.photoUrl(image.id) : report.data.thumbUrl(image);
      const href = imageHref(entry.image, { prediction: state.prediction, side: entry.side, segment: entry.segment });
      return { entry, image, crop, src, href };
    };
    return { classes, chosen, shown, format };
  };

  return {
    components: { Swatch, KindBadge, PredictionChoice, Picture },
    setup,
    template: `
      <section aria-labelledby="worst-title">
        <header class="section-head"><h2 id="worst-title">Worst segments</h2><PredictionChoice></PredictionChoice>
          <label class="select">Class <select v-model="chosen"><option :value="-1">all</option>
            <option v-for="item in classes" :key="item.i" :value="item.i">{{ item.category.name }}</option></select></label></header>
        <p class="hint">The largest segments that were missed or predicted wrongly. Each opens its image at the segment.</p>
        <article v-for="item in shown" :key="item.i" class="card">
          <h3><Swatch :color="item.category.color"></Swatch>{{ item.category.name }}
            <button v-if="item.entries.length > item.cards.length" type="button" class="plain" @click="chosen = item.i">all {{
              item.entries.length }}</button></h3>
          <div class="worst-cards">
            <a v-for="(card, k) in item.cards" :key="k" :href="card.href" class="worst-card">
              <span class="crop">
                <Picture :src="card.src" alt="" loading="lazy" :class="{ whole: !card.crop }" :style="card.crop?.photo"></Picture>
                <span v-if="card.crop" class="crop-box" :style="card.crop.box"></span></span>
              <span class="caption"><KindBadge :kind="card.entry.kind"></KindBadge>
                <span class="hint">IoU {{ format.fraction(card.entry.iou) }}</span></span>
              <span class="file hint">{{ card.image.name }}</span>
            </a>
          </div>
        </article>
      </section>`,
  };
})();
