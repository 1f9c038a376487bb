"""Check that OpenCV can be imported before anything else needs it."""

from __future__ import annotations

from utils.errors import InputError


def require_cv2() -> None:
    """Import OpenCV, or say in one line what to do.

    Raises:
        InputError: cv2 is missing, or a system library that its desktop build needs is (libGL on servers).
    """
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        raise InputError(explain_import_error(error)) from error


def explain_import_error(error: ImportError) -> str:
    """Return the advice for an import of cv2 that failed."""
    if isinstance(error, ModuleNotFoundError) and error.name == "cv2":
        return "OpenCV (cv2) is not installed: pip install opencv-python-headless"
    return (
        f"OpenCV (cv2) cannot be loaded ({error}): on machines without a screen use the build that needs no system "
        "libraries: pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python-headless"
    )
