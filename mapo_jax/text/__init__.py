"""Turns text into tokens and back (SentencePiece, Hugging Face, chat templates). No JAX."""

from mapo_jax.text.chat import Prompt as Prompt
from mapo_jax.text.files import is_in as is_in
from mapo_jax.text.files import load_tokenizer as load_tokenizer
from mapo_jax.text.huggingface import HuggingFaceTokenizer as HuggingFaceTokenizer
from mapo_jax.text.protocol import Stream as Stream
from mapo_jax.text.protocol import Tokenizer as Tokenizer
from mapo_jax.text.sentencepiece import SentencePieceTokenizer as SentencePieceTokenizer
