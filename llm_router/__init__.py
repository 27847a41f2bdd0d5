"""The LLM gateway: native relay of model APIs, metered and enforced."""
