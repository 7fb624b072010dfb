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
- It is not slower: what wrong guesses and trials may cost is a budget, which grows with the tokens decoded (`_ALLOWANCE`)
  and with what right guesses saved; nothing is guessed that could overdraw it.
- It is off by itself where it does not pay: what a step of each width costs and how often guesses are right is measured.
"""

from collections.abc import Sequence

BLOCK = 256  # cells: the padding of llama_kv_cache::get_n_kv
WIDTHS = (2, 7, 16)  # tokens in one step, the sampled one and guesses; from 8 on llama.cpp has other K-quant kernels
_NGRAM = 4  # tokens that a search looks at; beyond, the run of right guesses tells more
_LEAST_GAIN = 1.05  # tokens per time against steps of one token
_TRIAL_GAIN = 1.2  # what a width must promise beyond the proven ones to be tried
_ALLOWANCE = 0.015  # steps that may be lost for each token
_CREDIT = 3.0  # steps that may be lost at first: two trials and a wrong guess
_LEAST_CREDIT = 1.5  # of them for each answer, whatever was lost before
_MOST_CREDIT = 6.0  # savings do not allow more losses than this later
_PRIOR_COST = (
    0.3  # of a further token in a step, before it is measured (a CPU with one thread; more threads or a GPU: less)
)
_BLEND = 0.2  # weight of a new measurement
_OUTLIER = 3.0  # a time beyond so many times what was expected says more of the machine than of the step
_FORGET = (
    0.01  # a cost that is not measured goes back to the prior by this share at each token, so that it is tried again
)
# How often the next guess is right after `run` right ones (or after an n-gram of that length), as counted over
# corrected, extracted, renamed and unrelated texts (bench/draft.py); the answer at hand soon outweighs it.
_PRIOR_RIGHT = (0.0, 0.25, 0.5, 0.65, 0.75, 0.8, 0.8, 0.85, 0.85, 0.85, 0.9)
_PRIOR_WEIGHT = 4.0
_MEMORY = 0.96  # what an older guess counts against the next one


class Steps:
    """What is known of one context's decode steps by width: their time, and whether they compute what single ones do.

    One for a loaded model: it stays from answer to answer.
    """

    def __init__(self) -> None:
        self.credit = _CREDIT
        self._one = 0.0  # seconds of a step of one token
        self._costs = {width: _prior_cost(width) for width in WIDTHS}
        self._same: set[tuple[int, int]] = set()  # (width, block) whose trial succeeded
        self._other: dict[int, int] = {}  # width to the first block where it failed, and so it does in later ones

    def cost(self, width: int) -> float:
        """Time of a step of `width` tokens, a step of one being 1."""
        return self._costs[width]

    def is_same(self, width: int, block: int) -> bool:
        """Whether a trial has shown that such a step computes the same."""
        return (width, block) in self._same

    def may_be_same(self, width: int, block: int) -> bool:
        """Whether a trial could show it: none failed, and the next smaller width succeeded before, here or elsewhere."""
        if any(other <= width and failed <= block for other, failed in self._other.items()):
            return False
        before = [smaller for smaller in WIDTHS if smaller < width]
        return not before or any(proven >= before[-1] for proven, _ in self._same)

    def judge(self, width: int, block: int, is_same: bool) -> None:
        """A trial has shown that such a step computes the same, or that it does not."""
        if is_same:
            self._same.add((width, block))
        else:
            self._other[width] = min(block, self._other.get(width, block))

    def took(self, width: int, gained: int, seconds: float) -> None:
        """A step of `width` tokens gave `gained` of the answer, none if it was a trial."""
        self._measure(width, seconds)
        self.credit += gained * (1 + _ALLOWANCE) - self._relative(width, seconds)
        self.credit = min(self.credit, _MOST_CREDIT)

    def _measure(self, width: int, seconds: float) -> None:
        if width == 1:
            self._one += _BLEND * (min(seconds, _OUTLIER * self._one) - self._one) if self._one else seconds
            for other in WIDTHS:
                self._costs[other] += _FORGET * (_prior_cost(other) - self._costs[other])
        elif self._one:
            self._costs[width] += _BLEND * (self._relative(width, seconds) - self._costs[width])

    def _relative(self, width: int, seconds: float) -> float:
        if width == 1 or not self._one:
            return 1.0
        return min(seconds / self._one, _OUTLIER * self._costs[width])


def _prior_cost(width: int) -> float:
    return 1 + _PRIOR_COST * (width - 1)


class Draft:
    """The guesser of one answer. Each call takes microseconds; the index grows with prompt and answer."""

    def __init__(self, prompt_ids: Sequence[int], steps: Steps | None = None) -> None:
        self.steps = steps or Steps()
        self.steps.credit = max(self.steps.credit, _LEAST_CREDIT)
        self._ids = ids = list(prompt_ids)
        # by length: the n-gram to the position after its last occurrence
        self._after = [
            dict(zip(zip(*(ids[i:] for i in range(n)), strict=False), range(n, len(ids)), strict=False))
            for n in range(1, _NGRAM + 1)
        ]
        self._source = 0  # the position whose token is guessed to come next; 0: nothing is
        self._run = 0  # the n-gram's length and the right guesses since
        self._right = [rate * _PRIOR_WEIGHT for rate in _PRIOR_RIGHT]
        self._tried = [_PRIOR_WEIGHT] * len(_PRIOR_RIGHT)
        self._find()

    def observe(self, token: int) -> None:
        """A token has come; whether it was expected counts, guessed or not."""
        ids, end = self._ids, len(self._ids)
        is_right = bool(self._source) and ids[self._source] == token
        if self._source:
            level = min(self._run, len(self._right) - 1)
            self._right[level] = self._right[level] * _MEMORY + is_right
            self._tried[level] = self._tried[level] * _MEMORY + 1
        ids.append(token)
        for n, after in enumerate(self._after, 1):
            if n <= end:
                after[tuple(ids[end - n : end])] = end
        if is_right:
            self._source += 1
            self._run += 1
        else:
            self._find()

    def propose(self) -> list[int]:
        """The tokens that may come after the last one, [] where guessing does not pay or has not been proven the same."""
        if not self._source:
            return []
        steps, block, space = self.steps, *self._place()
        allowed = [width for width in WIDTHS if width <= space and steps.is_same(width, block)]
        width, gain = self._best([width for width in allowed if steps.cost(width) - 1 <= steps.credit])
        return self._continuation(width - 1) if gain >= _LEAST_GAIN else []

    def trial(self) -> list[int]:
        """The guesses to try a width with that is not proven here and promises more than those that are; [] for none."""
        steps = self.steps
        if not self._source or steps.credit < steps.cost(WIDTHS[0]):
            return []
        block, space = self._place()
        proven = {width for width in WIDTHS if width <= space and steps.is_same(width, block)}
        open_ones = [
            width for width in WIDTHS if width <= space and width not in proven and steps.may_be_same(width, block)
        ]
        _, usual = self._best(sorted(proven))
        width, gain = self._best([width for width in open_ones if steps.cost(width) <= steps.credit])
        return self._continuation(width - 1) if gain >= _TRIAL_GAIN * max(1.0, usual) else []

    def tried(self, drafted: int, seconds: float) -> None:
        """A trial with 1 + `drafted` tokens took this time."""
        self.steps.took(1 + drafted, 0, seconds)

    def judge(self, drafted: int, position: int, is_same: bool) -> None:
        """Whether a trial with 1 + `drafted` tokens from `position` on gave the logits of single steps, to the bit."""
        self.steps.judge(1 + drafted, position // BLOCK, is_same)

    def learn(self, drafted: int, accepted: int, seconds: float) -> None:
        """A step that decoded 1 + `drafted` tokens gave 1 + `accepted` in this time."""
        self.steps.took(1 + drafted, 1 + accepted, seconds)

    def _find(self) -> None:
        ids = self._ids
        for n in range(min(_NGRAM, len(ids)), 0, -1):
            source = self._after[n - 1].get(tuple(ids[-n:]), 0)
            if source:
                self._source, self._run = source, n
                return
        self._source = self._run = 0

    def _place(self) -> tuple[int, int]:
        """The block of the newest token, which is not decoded yet, and the positions from it to the block's end."""
        block, offset = divmod(len(self._ids) - 1, BLOCK)
        return block, BLOCK - offset

    def _best(self, widths: Sequence[int]) -> tuple[int, float]:
        """The width that gives the most tokens per time, and how many against steps of one token."""
        best, most = 0, 0.0
        expected, chance, guesses, last = 1.0, 1.0, 0, len(self._right) - 1
        for width in widths:
            while guesses < width - 1:
                level = min(self._run + guesses, last)
                chance *= self._right[level] / self._tried[level]
                expected += chance
                guesses += 1
            gain = expected / self.steps.cost(width)
            if gain > most:
                best, most = width, gain
        return best, most

    def _continuation(self, count: int) -> list[int]:
        """What stands from the source on; where it reaches the end, its period goes on."""
        found = self._ids[self._source : self._source + count]
        period = len(self._ids) - self._source
        while len(found) < count:
            found.append(found[len(found) - period])
        return found
