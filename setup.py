"""Which packages a wheel holds; everything else about the project is in pyproject.toml.

`conf/` lies beside the code in the tree, where it is edited, and inside the package in a wheel, so
that an installation puts nothing but `pipeline` into site-packages. pyproject.toml can either look
for packages or map a folder to another place, not both.
"""

from setuptools import find_namespace_packages, find_packages, setup

values = ["pipeline.conf", *(f"pipeline.conf.{group}" for group in find_namespace_packages("conf"))]
setup(
    packages=[*find_packages(include=["pipeline", "pipeline.*"]), *values],
    package_dir={"pipeline.conf": "conf"},
    package_data={package: ["*.yaml"] for package in values},
)
