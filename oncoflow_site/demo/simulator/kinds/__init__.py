"""What real examinations show and the classic mixture does not: named kinds of tumours, mimics, looks and flaws."""
