"""`tuner report`: a study as one page. document.py makes its data, page.py puts data, page.html, page.css and the scripts together."""
