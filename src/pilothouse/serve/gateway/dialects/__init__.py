"""The forms of the API, one file each. A name with a leading underscore is a part of a dialect, not a dialect."""
