"""The tokenizer of genome-lm for Hugging Face transformers: a token per letter; copied beside exported weights."""

from transformers import PreTrainedTokenizer

VOCABULARY = "[CLS] [SEP] [BOS] [MASK] [PAD] [RESERVED] [UNK] A C G T N".split()
_AMBIGUOUS = "NRYSWKMBDHV"


class GenomeLMTokenizer(PreTrainedTokenizer):
    """DNA, in either case, to ids: U as T, ambiguity codes as N. No token is added. Other letters are an error."""

    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012
    vocab_files_names = {}  # noqa: RUF012

    def __init__(self, **options) -> None:
        self._ids = {token: number for number, token in enumerate(VOCABULARY)}
        for name in ("pad", "unk", "mask", "cls", "sep"):
            options.setdefault(f"{name}_token", f"[{name.upper()}]")
        super().__init__(**options)

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return len(VOCABULARY)

    def get_vocab(self) -> dict[str, int]:
        """Ids of the tokens."""
        return dict(self._ids)

    def _tokenize(self, text: str, **_) -> list[str]:
        letters = text.upper().replace("U", "T")
        if wrong := set(letters) - set("ACGT" + _AMBIGUOUS):
            raise ValueError(f"{sorted(wrong)[0]!r} is not a nucleotide")
        return [letter if letter in "ACGT" else "N" for letter in letters]

    def _convert_token_to_id(self, token: str) -> int:
        return self._ids.get(token, self._ids["[UNK]"])

    def _convert_id_to_token(self, index: int) -> str:
        return VOCABULARY[index] if index < len(VOCABULARY) else "[UNK]"

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Letters without anything between."""
        return "".join(tokens)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """The ids as they are."""
        return token_ids_0 + (token_ids_1 or [])

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Nothing: the vocabulary is in the code."""
        return ()
