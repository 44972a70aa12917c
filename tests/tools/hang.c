/* A filesystem that does not answer, for whoever is started with this before its own libc (LD_PRELOAD): calls of
 * the functions that PGKEEP_TEST_HANG_IN names, with a path below PGKEEP_TEST_HANG, wait for as long as the file
 * PGKEEP_TEST_HANG_WHILE is there, and make a file of that name and ".hung". */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void wait_for(const char *function, const char *path) {
    const char *below = getenv("PGKEEP_TEST_HANG"), *while_there = getenv("PGKEEP_TEST_HANG_WHILE");
    const char *functions = getenv("PGKEEP_TEST_HANG_IN");
    if (!below || !while_there || !functions || !path) return;
    if (!strstr(functions, function) || strncmp(path, below, strlen(below))) return;
    if (access(while_there, F_OK) != 0) return;
    char hung[4096];
    snprintf(hung, sizeof hung, "%s.hung", while_there);
    close(creat(hung, 0600));
    while (access(while_there, F_OK) == 0) usleep(20000);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    wait_for("open", path);
    return REAL(open64)(path, flags, mode);
}
DIR *opendir(const char *path) { wait_for("open", path); return REAL(opendir)(path); }
int statx(int at, const char *restrict path, int flags, unsigned mask, struct statx *restrict facts) {
    wait_for("stat", path);
    return REAL(statx)(at, path, flags, mask, facts);
}
int mkdir(const char *path, mode_t mode) { wait_for("mkdir", path); return REAL(mkdir)(path, mode); }
int unlink(const char *path) { wait_for("unlink", path); return REAL(unlink)(path); }
