"""`tuner report`: a study as one page. document.py makes its data, page.py puts data, page.html, page.css and the scripts together.

live.js and running.js belong to the page that `tuner dashboard` serves, which is the same one without data of its own.
"""
