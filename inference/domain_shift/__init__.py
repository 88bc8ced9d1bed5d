"""Does a study look like what the models learned from?"""
