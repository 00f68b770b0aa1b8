"""Circuits: what a checkpoint does a task with, how that is shown to be so, and what a later stage made of it.

Activation patching [Meng 2022; Heimersheim 2024], edge attribution patching [Syed 2023] with integrated gradients
[Hanna 2024], faithfulness as MIB has it [Mueller 2025], the same circuit across checkpoints [Prakash 2024].
"""
