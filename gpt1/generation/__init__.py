"""Text generation: greedy, sampled, or by beam search (not in the paper, but wanted)."""

from gpt1.generation.beam import BeamSearch, beam_search
from gpt1.generation.decoding import generate
from gpt1.generation.sampling import Sampling, choose, restrict

__all__ = ["BeamSearch", "Sampling", "beam_search", "choose", "generate", "restrict"]
