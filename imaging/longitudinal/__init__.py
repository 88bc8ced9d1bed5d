"""A study against every earlier one: lesions followed, RANO 2.0, comparison rows."""
