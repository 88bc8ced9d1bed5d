"""Vision-language models as experts: MedGemma, another one from a folder, or a server that speaks OpenAI's protocol."""
