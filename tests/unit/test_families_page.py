from unit.families_page import PAGE, page


def test_the_page_of_families_says_what_the_checks_find():
    assert PAGE.read_text(encoding="utf-8") == page(), "cd tests && python -m unit.families_page"
