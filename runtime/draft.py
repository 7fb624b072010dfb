"""Guesses what comes next where an answer repeats what was said before: prompt-lookup speculation without a second model.

The longest n-gram that stood earlier in prompt or answer tells what may follow. Several guesses cost less in one decode
than one by one, since the weights are read once for all of them; each guess that is right saves a step.

Three things are promised, and none of them is assumed:
- The answer is the same, token for token. Some kernels of llama.cpp round a row otherwise when several are computed at
  once (on CPUs: matrix products of F32, F16 and BF16 weights, those of K-quants from 8 rows on, attention by several threads
  over more than 256 cells of an f16 cache), and quantized activations make that tenths of a logit. So a width is used only
  after a trial: the same tokens are decoded at once and then one by one, and all logits must be equal to the bit.
  Which kernels a step runs depends on its width and on the cells it attends to, which llama.cpp counts in 256s. A trial
  therefore holds for a width within a block of 256 positions, and no step crosses a block's end.
- It is hardly ever slower: what wrong guesses and trials may cost is a budget of a few steps, which grows by one for each
  hundred tokens and by what right guesses save; nothing is guessed that would overdraw it.
- It is off by itself where it does not pay: what a step of each width costs is measured on the way, and how often guesses
  are right is counted also while none are made, which costs nothing.
"""

from collections.abc import Iterable, Sequence

BLOCK = 256  # cells: the padding of llama_kv_cache::get_n_kv
# Tokens in one step, the sampled one and guesses. llama.cpp has other kernels for K-quants from 8 on, and from 4 on where it
# interleaves the rows of the weights (AVX2 and NEON).
WIDTHS = (2, 3, 7, 16)
_BEFORE = {3: 2, 7: 2, 16: 7}  # the width whose trial must have succeeded first
_TOKEN_BITS = 32
_NGRAMS = (
    2,
    3,
    4,
)  # lengths that a search looks for, one more than the last each; the run of right guesses tells the rest
_LEAST_CHANCE = 0.3  # of the next guess; 2 tokens in one step cost more than that saves
_LEAST_GAIN = 1.05  # tokens per time against steps of one token
_TRIAL_GAIN = 1.2  # what a width must promise beyond the proven ones to be tried
_TRIAL_CHANCE = 0.7  # that all its guesses are right: else it may show nothing
_ALLOWANCE = 0.01  # steps that may be lost for each token
_CREDIT = 1.5  # steps that may be lost at first; no answer brings more of them to the next
_CREDIT_EACH = 0.5  # more of them for each answer
_LOAN = 3.0  # of them beyond that where guesses have turned out right, made or not: what is lost then soon comes back
_SURE = 0.85  # chance of the next guess from which on that holds
_MOST_CREDIT = 6.0  # what was saved before does not allow more losses than this
# Time of a step before it is measured, a step of one token being 1 (one CPU thread; more threads or a GPU: less).
_PRIOR_COSTS = {width: 1 + 0.3 * (width - 1) for width in WIDTHS}
_FIRST_SINGLES = 3  # steps that are timed before anything is guessed
_BLEND = 0.2  # weight of a new measurement; the first few weigh more
_OUTLIER = 3.0  # a time beyond so many times what was expected says more of the machine than of the step
_FORGET = 0.01  # share by which a cost goes back to the prior at each single step: what seemed dear is tried again
# How often the next guess is right after `run` right ones (or after an n-gram of that length): counted once over copied
# texts with small edits and unrelated ones, so rather too hopeful; the answer at hand soon outweighs it.
_PRIOR_RIGHT = (0.0, 0.25, 0.5, 0.65, 0.75, 0.8, 0.8, 0.85, 0.85, 0.85, 0.9)
_LEVELS = len(_PRIOR_RIGHT)
_PRIOR_WEIGHT = 4.0
_MEMORY = 0.96  # what an older guess counts against the next one


class Steps:
    """What is known of one context's decode steps by width: their time, and whether they compute what single ones do.

    One for a loaded model: it stays from answer to answer.
    """

    def __init__(self) -> None:
        self.credit = _CREDIT
        self._one = 0.0  # seconds of a step of one token after another such step
        self._costs = dict(_PRIOR_COSTS)
        self._measured = dict.fromkeys(WIDTHS, 0)
        self._singles = 0
        self._last, self._last_time = 0, 1.0  # the last step's width (0: no step of an answer) and time in single steps
        self._same: set[tuple[int, int]] = set()  # (width, block) whose trial succeeded
        self._other: dict[int, int] = {}  # width to the first block where it failed, and so it does in later ones

    def cost(self, width: int) -> float:
        """Time of a step of `width` tokens, a step of one being 1."""
        return self._costs[width]

    def is_same(self, width: int, block: int) -> bool:
        """Whether a trial has shown that such a step computes the same."""
        return (width, block) in self._same

    def may_be_same(self, width: int, block: int) -> bool:
        """Whether a trial could show it: none failed, and the one before it succeeded, here or elsewhere."""
        if any(other <= width and failed <= block for other, failed in self._other.items()):
            return False
        return width not in _BEFORE or any(proven >= _BEFORE[width] for proven, _ in self._same)

    def judge(self, width: int, block: int, is_same: bool) -> None:
        """A trial has shown that such a step computes the same, or that it does not."""
        if is_same:
            self._same.add((width, block))
        else:
            self._other[width] = min(block, self._other.get(width, block))

    def begin(self) -> None:
        """A new answer: what was decoded before it was something else, and it may lose a little of its own."""
        self.credit = min(self.credit, _CREDIT) + _CREDIT_EACH
        self._last = 0

    @property
    def is_known(self) -> bool:
        """Whether single steps have been timed, which all costs are counted in."""
        return self._singles >= _FIRST_SINGLES

    def took(self, width: int, gained: int, seconds: float) -> None:
        """A step of `width` tokens gave `gained` of the answer, none if it was a trial.

        llama.cpp builds its graph anew when the width changes, so what a single step takes longer after a wide one is
        counted as the wide one's.
        """
        time = min(seconds / self._one, _OUTLIER * self._costs.get(width, 1.0)) if self._one else 1.0
        if self._last > 1:
            self._blend(self._last, self._last_time + (time - 1 if width == 1 else 0))
        elif width == 1:
            time = 1.0
            if self._last == 1:
                self._time_single(seconds)
        self.credit = min(self.credit + gained * (1 + _ALLOWANCE) - time, _MOST_CREDIT)
        self._last, self._last_time = width, time

    def _time_single(self, seconds: float) -> None:
        self._singles += 1
        self._one += _BLEND * (min(seconds, _OUTLIER * self._one) - self._one) if self._one else seconds
        for width, prior in _PRIOR_COSTS.items():
            self._costs[width] += _FORGET * (prior - self._costs[width])

    def _blend(self, width: int, time: float) -> None:
        """A new measurement of a width; the first one also says something of the wider ones."""
        weight = max(_BLEND, 1 / (2 + self._measured[width]))
        self._costs[width] += weight * (time - self._costs[width])
        self._measured[width] += 1
        for wider in WIDTHS:
            if wider > width and not self._measured[wider]:
                in_line = 1 + (self._costs[width] - 1) / (width - 1) * (wider - 1)
                self._costs[wider] = (in_line + _PRIOR_COSTS[wider]) / 2


def _packed(ids: Sequence[int], n: int) -> list[int]:
    """Every n-gram as one number, the last token in the low bits."""
    grams = list(ids[n - 1 :])
    for back in range(1, n):
        grams = [gram | token << _TOKEN_BITS * back for gram, token in zip(grams, ids[n - 1 - back :], strict=False)]
    return grams


class Draft:
    """The guesser of one answer. Each call takes microseconds; the index grows with prompt and answer."""

    def __init__(self, prompt_ids: Sequence[int], steps: Steps | None = None) -> None:
        self.steps = steps or Steps()
        self.steps.begin()
        self._ids = ids = list(prompt_ids)
        # by length: the n-gram, packed, to the position after its last occurrence
        self._after = [dict(zip(_packed(ids, n), range(n, len(ids)), strict=False)) for n in _NGRAMS]
        self._ends = [_packed(ids[-n:], n)[0] for n in (1, *_NGRAMS) if n <= len(ids)]
        self._source = 0  # the position whose token is guessed to come next; 0: nothing is
        self._run = 0  # the n-gram's length and the right guesses since
        self._right = [rate * _PRIOR_WEIGHT for rate in _PRIOR_RIGHT]
        self._tried = [_PRIOR_WEIGHT] * _LEVELS
        self._sums: list[float] = []  # what 1, 2, … guesses would probably give now, worked out when asked for
        self._find()

    def observe(self, token: int) -> None:
        """A token has come; whether it was expected counts, guessed or not."""
        ids = self._ids
        is_right = bool(self._source) and ids[self._source] == token
        if self._source:
            level = min(self._run, _LEVELS - 1)
            self._right[level] = self._right[level] * _MEMORY + is_right
            self._tried[level] = self._tried[level] * _MEMORY + 1
        ends = self._ends  # the n-grams at the end, packed, from one token up
        for after, gram in zip(self._after, ends[1:], strict=False):
            after[gram] = len(ids)
        ids.append(token)
        self._ends = [token, *(gram << _TOKEN_BITS | token for gram in ends[: len(_NGRAMS)])]
        self._sums.clear()
        if is_right:
            self._source += 1
            self._run += 1
        else:
            self._find()

    def propose(self) -> list[int]:
        """The tokens that may come after the last one, [] where guessing does not pay or has not been proven the same."""
        if not self._may_pay():
            return []
        steps, (block, space) = self.steps, self._place()
        width, gain = self._best(
            width
            for width in WIDTHS
            if width <= space and steps.is_same(width, block) and steps.cost(width) - 1 <= self._credit()
        )
        return self._continuation(width - 1) if gain >= _LEAST_GAIN else []

    def trial(self) -> list[int]:
        """The guesses to try a width with that is not proven here and promises more than those that are; [] for none."""
        if not self._may_pay():
            return []
        steps, (block, space) = self.steps, self._place()
        proven = [width for width in WIDTHS if width <= space and steps.is_same(width, block)]
        width, gain = self._best(
            width
            for width in WIDTHS
            if width <= space
            and width not in proven
            and self._chance(width) >= _TRIAL_CHANCE
            and steps.cost(width) <= self._credit()
            and steps.may_be_same(width, block)
        )
        if not width or gain < _TRIAL_GAIN * max(1.0, self._best(proven)[1]):
            return []
        return self._continuation(width - 1)

    def tried(self, drafted: int, seconds: float) -> None:
        """A trial with 1 + `drafted` tokens took this time."""
        self.steps.took(1 + drafted, 0, seconds)

    def judge(self, drafted: int, position: int, is_same: bool) -> None:
        """Whether a trial with 1 + `drafted` tokens from `position` on gave the logits of single steps, to the bit."""
        self.steps.judge(1 + drafted, position // BLOCK, is_same)

    def learn(self, drafted: int, accepted: int, seconds: float) -> None:
        """A step that decoded 1 + `drafted` tokens gave 1 + `accepted` in this time."""
        self.steps.took(1 + drafted, 1 + accepted, seconds)

    def _credit(self) -> float:
        return self.steps.credit + (_LOAN if self._chance(2) >= _SURE else 0)

    def _find(self) -> None:
        for at in range(len(self._ends) - 1, 0, -1):
            source = self._after[at - 1].get(self._ends[at], 0)
            if source:
                self._source, self._run = source, _NGRAMS[at - 1]
                return
        self._source = self._run = 0

    def _may_pay(self) -> bool:
        """Whether it is worth the time to work out what guessing gives."""
        level = min(self._run, _LEVELS - 1)
        return bool(self._source) and self.steps.is_known and self._right[level] >= _LEAST_CHANCE * self._tried[level]

    def _place(self) -> tuple[int, int]:
        """The block of the newest token, which is not decoded yet, and the positions from it to the block's end."""
        block, offset = divmod(len(self._ids) - 1, BLOCK)
        return block, BLOCK - offset

    def _best(self, widths: Iterable[int]) -> tuple[int, float]:
        """The width that gives the most tokens per time, and how many against steps of one token; (0, 0) for none."""
        gains = [(self._expected(width) / self.steps.cost(width), width) for width in widths]
        gain, width = max(gains, default=(0.0, 0))
        return width, gain

    def _expected(self, width: int) -> float:
        """How many tokens a step of this width will probably give."""
        if not self._sums:
            chance, total = 1.0, 1.0
            for run in range(self._run, self._run + WIDTHS[-1] - 1):
                level = min(run, _LEVELS - 1)
                chance *= self._right[level] / self._tried[level]
                total += chance
                self._sums.append(total)
        return self._sums[width - 2]

    def _chance(self, width: int) -> float:
        """How probably all guesses of such a step are right."""
        return self._expected(width) - (self._expected(width - 1) if width > 2 else 1.0)

    def _continuation(self, count: int) -> list[int]:
        """What stands from the source on; where it reaches the end, its period goes on."""
        found = self._ids[self._source : self._source + count]
        period = len(self._ids) - self._source
        while len(found) < count:
            found.append(found[len(found) - period])
        return found
