"""difference.py LOWER UPPER TAR: what UPPER has and LOWER has not, as an image layer (with whiteouts).

LOWER may be "-" for a first layer. Ownership, modes, times, hard links and extended attributes are kept.
"""

import io
import os
import stat
import sys
import tarfile


def entries(root):
    found = {}
    for directory, names, files in os.walk(root):
        names.sort()
        for name in sorted(names + files):
            path = os.path.join(directory, name)
            found[os.path.relpath(path, root)] = os.lstat(path)
    return found


def same(lower, upper, path, old, new):
    keys = ("st_mode", "st_uid", "st_gid")
    if any(getattr(old, key) != getattr(new, key) for key in keys):
        return False
    if stat.S_ISDIR(new.st_mode):
        return True
    if stat.S_ISLNK(new.st_mode):
        return os.readlink(os.path.join(lower, path)) == os.readlink(os.path.join(upper, path))
    return old.st_size == new.st_size and int(old.st_mtime) == int(new.st_mtime)


def main(lower, upper, target):
    below = {} if lower == "-" else entries(lower)
    above = entries(upper)
    links = {}
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(above):
            info = above[path]
            if path in below and same(lower, upper, path, below[path], info):
                continue
            if stat.S_ISSOCK(info.st_mode):
                continue
            full = os.path.join(upper, path)
            member = tar.gettarinfo(full, path)
            member.uname = member.gname = ""
            member.mtime = int(info.st_mtime)
            inode = (info.st_dev, info.st_ino)
            if stat.S_ISREG(info.st_mode) and inode in links:
                member.type, member.linkname, member.size = tarfile.LNKTYPE, links[inode], 0
            elif stat.S_ISREG(info.st_mode):
                member.type, member.linkname, member.size = tarfile.REGTYPE, "", info.st_size
                links[inode] = path
            if not stat.S_ISLNK(info.st_mode):
                for name in os.listxattr(full):
                    if name == "security.capability" or name.startswith("user."):
                        value = os.getxattr(full, name)
                        member.pax_headers["SCHILY.xattr." + name] = value.decode("utf-8", "surrogateescape")
            if member.isreg():
                with open(full, "rb") as content:
                    tar.addfile(member, content)
            else:
                tar.addfile(member)
        gone = [path for path in below if path not in above]
        for path in sorted(gone):
            parent, name = os.path.split(path)
            if parent and parent not in above:
                continue
            member = tarfile.TarInfo(os.path.join(parent, ".wh." + name))
            tar.addfile(member, io.BytesIO())


main(*sys.argv[1:])
