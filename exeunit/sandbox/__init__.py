"""What keeps foreign work inside its box: Landlock, seccomp, limits, confined paths, disk accounting.

Each measure lives in its own file, is applied by the process that is to be confined (nothing here needs root), and
can be proved by `confinement.probe`, because a feature that the kernel claims to have is no proof that it holds.
"""
