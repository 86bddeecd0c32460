"""Where the results do not hold: sentences that are true whatever the numbers turn out to be."""

from __future__ import annotations

from dashboards.tables import Row, Tables, select, study

ALWAYS = (
    "All policies are compared at equal training steps and at one learning rate, which was not "
    "tuned for each estimator; mean |A|, in the training figure, is part of what sets the "
    "size of a step.",
    "Risk-sensitive training needs hard prompts in its pool and a base policy with room to gain at "
    "large k. In a feasibility study on the embedded task, a pool as skewed as the pre-training "
    "corpus, or a base near the ceiling, left it below the base policy, and a learning rate of "
    "1e-3 left every estimator below it.",
    "A larger beta is not always better: in that study beta 8 lowered pass@1 on an easy tier, beta "
    "16 added nothing to 8, and beta 2 was not above the base at k = 256 for every base and pool.",
    "A prompt without a correct sample is unsolved in that many samples; it is not shown to be "
    "unsolvable.",
    "Curves and intervals that are read at every k and for every policy are many readings: the "
    "headline sentence names the one that was fixed beforehand.",
)


def limits(tables: Tables) -> tuple[str, ...]:
    """Return the sentences for this study: those always true, and those its sizes call for."""
    return (*_of_the_sizes(study(tables)), *_of_the_task(tables), *ALWAYS)


def _of_the_sizes(row: Row) -> list[str]:
    found = []
    ks, samples = row.get("ks") or [], row.get("n_samples")
    if isinstance(samples, int) and ks and max(ks) * 4 > samples:
        found.append(
            f"Estimates at k above a quarter of the samples (k > {samples // 4}) rest on few "
            f"samples for each problem; k = {samples} means solved at least once in {samples}."
        )
    if seeds := row.get("seeds"):
        count = "1 seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
        found.append(f"Each method was trained with {count}: the spread over seeds is rough.")
    if row.get("split") == "development":
        found.append(
            "These are prompts of the development split, on which settings may be chosen: expect "
            "less on prompts that were never looked at."
        )
    return found


def _of_the_task(tables: Tables) -> list[str]:
    if not any(row.get("n_trees") is not None for row in select(tables, "unique")):
        return []
    return [
        "The task is small arithmetic that can be enumerated, and the policy a tiny transformer: "
        "what is shown here is an effect of the objective, not the size it has in a language model."
    ]
