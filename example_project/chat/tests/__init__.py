"""``python example_project/manage.py test example_project``"""
