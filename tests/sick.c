/* Lets calls on chosen files fail, as a sick disk or share would: LD_PRELOAD, told by a control file.
 *
 * SICK names the control file: one line `CALL ERRNO TEXT`. While it is there, CALL (pread or write) on a path
 * that holds TEXT fails with ERRNO. Only what the C library exports is seen, which is what Python uses.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int is_sick(const char *call, const char *path) {
    char line[4096], name[16], text[4000];
    int code;
    const char *control = getenv("SICK");
    FILE *file;
    if (!control || !path || !strcmp(path, control) || !(file = fopen(control, "re")))
        return 0;
    code = 0;
    if (!fgets(line, sizeof line, file) || sscanf(line, "%15s %d %3999s", name, &code, text) != 3 ||
        strcmp(name, call) || !strstr(path, text))
        code = 0;
    fclose(file);
    return code;
}

static const char *path_of(int fd, char *buffer, size_t size) {
    char link[64];
    ssize_t length;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, buffer, size - 1);
    if (length < 0)
        return NULL;
    buffer[length] = 0;
    return buffer;
}

ssize_t pread64(int fd, void *data, size_t size, off64_t at) {
    static ssize_t (*real)(int, void *, size_t, off64_t);
    char buffer[4096];
    int code = is_sick("pread", path_of(fd, buffer, sizeof buffer));
    if (code) {
        errno = code;
        return -1;
    }
    if (!real)
        real = dlsym(RTLD_NEXT, "pread64");
    return real(fd, data, size, at);
}

ssize_t write(int fd, const void *data, size_t size) {
    static ssize_t (*real)(int, const void *, size_t);
    char buffer[4096];
    int code = is_sick("write", path_of(fd, buffer, sizeof buffer));
    if (code) {
        errno = code;
        return -1;
    }
    if (!real)
        real = dlsym(RTLD_NEXT, "write");
    return real(fd, data, size);
}
