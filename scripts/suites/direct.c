/*
 * Preloaded under fsx, which has no option for it: opens the file that LACUNA_DIRECT names with O_DIRECT.
 * FUSE takes direct requests of any alignment.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int opened(const char *name, const char *path, int flags, mode_t mode)
{
    int (*next)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, name);
    const char *direct = getenv("LACUNA_DIRECT");

    if (direct != NULL && strcmp(path, direct) == 0) {
        flags |= O_DIRECT;
        fprintf(stderr, "opened with O_DIRECT\n");
    }
    return next(path, flags, mode);
}

#define OPEN(name)                                  \
    int name(const char *path, int flags, ...)      \
    {                                               \
        mode_t mode = 0;                            \
        if (flags & (O_CREAT | O_TMPFILE)) {        \
            va_list rest;                           \
            va_start(rest, flags);                  \
            mode = va_arg(rest, mode_t);            \
            va_end(rest);                           \
        }                                           \
        return opened(#name, path, flags, mode);    \
    }

OPEN(open)
OPEN(open64)
