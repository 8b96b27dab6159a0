"""The project file: what a project declares (`schema`), and how `pilothouse.yaml` is read (`load`)."""

from pilothouse.core.project.load import load_project as load_project
from pilothouse.core.project.schema import Project as Project
