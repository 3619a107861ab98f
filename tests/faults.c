/* Counts the calls that change the disk below one folder, and makes one of them the last, or fail.
 *
 * Preloaded into every process of a test. The control block, a mapped file, is common to all of them, and so is the
 * count. A call is counted before it is done; those on other files, pipes and sockets are not.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum action { NOTHING, KILL_GROUP, KILL_SELF, TEAR, FAIL, SKIP_SYNC };
enum who { ALL, LEADER, WORKERS };

static struct control {
    int64_t count, at, action, number, fails, who, log;
    char root[1024];
} *control;

static int log_fd = -1;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("FAULTS_CONTROL");
    int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *at = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (at != MAP_FAILED)
        control = at;
    if ((path = getenv("FAULTS_LOG")))
        log_fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CLOEXEC);
}

static int below_root(const char *path)
{
    size_t length = strlen(control->root);
    return !strncmp(path, control->root, length) && (!path[length] || path[length] == '/');
}

/* Fills `found` with the absolute path of a name, which stands in a folder given by its descriptor. */
static void resolve(int folder, const char *name, char *found)
{
    char link[64], base[PATH_MAX] = "";
    if (name && *name == '/') {
        snprintf(found, PATH_MAX, "%s", name);
        return;
    }
    if (folder == AT_FDCWD)
        snprintf(link, sizeof link, "/proc/self/cwd");
    else
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t length = readlink(link, base, sizeof base - 1);
    base[length < 0 ? 0 : length] = 0;
    snprintf(found, PATH_MAX, name ? "%.2000s/%.2000s" : "%.4000s", base, name);
}

/* Counts a call. Gives 0: do it; -1: it has failed, errno is set; -2: leave it out; -3: do half of it, then die. */
static int met(const char *call, int folder, const char *name)
{
    char path[PATH_MAX], line[PATH_MAX + 64];
    if (!control || !control->root[0])
        return 0;
    int kept = errno;
    resolve(folder, name, path);
    errno = kept;
    if (!below_root(path))
        return 0;
    int leader = getpid() == getsid(0);
    if ((control->who == LEADER && !leader) || (control->who == WORKERS && leader))
        return 0;
    int syncs = strstr(call, "sync") != NULL;
    if (control->action == SKIP_SYNC)
        return syncs ? -2 : 0;
    int64_t number = __atomic_add_fetch(&control->count, 1, __ATOMIC_SEQ_CST);
    if (control->log && log_fd >= 0) {
        int length = snprintf(line, sizeof line, "%s %s\n", call, path + strlen(control->root));
        syscall(SYS_write, log_fd, line, length < (int)sizeof line ? length : (int)sizeof line - 1);
    }
    if (!control->at || number < control->at)
        return 0;
    switch (control->action) {
    case TEAR:
        if (number == control->at && strstr(call, "write"))
            return -3;
        /* fall through */
    case KILL_GROUP:
        kill(0, SIGKILL);
        for (;;)
            pause();
    case KILL_SELF:
        if (number == control->at)
            syscall(SYS_kill, getpid(), SIGKILL);
        return 0;
    case FAIL:
        if (number >= control->at + control->fails)
            return 0;
        errno = (int)control->number;
        return -1;
    }
    return 0;
}

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

#define GUARD(call, folder, name)                                                                                     \
    do {                                                                                                              \
        int word = met(call, folder, name);                                                                           \
        if (word)                                                                                                     \
            return word == -1 ? -1 : 0;                                                                               \
    } while (0)

static int changes(int flags) { return (flags & (O_CREAT | O_TRUNC)) || (flags & O_ACCMODE) != O_RDONLY; }

#define MODE                                                                                                          \
    mode_t mode = 0;                                                                                                  \
    if (flags & (O_CREAT | __O_TMPFILE)) {                                                                            \
        va_list rest;                                                                                                 \
        va_start(rest, flags);                                                                                        \
        mode = va_arg(rest, mode_t);                                                                                  \
        va_end(rest);                                                                                                 \
    }

#define OPEN(name)                                                                                                    \
    int name(const char *path, int flags, ...)                                                                        \
    {                                                                                                                 \
        MODE                                                                                                          \
        if (changes(flags))                                                                                           \
            GUARD("open", AT_FDCWD, path);                                                                            \
        return REAL(name)(path, flags, mode);                                                                         \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                                                  \
    int name(int folder, const char *path, int flags, ...)                                                            \
    {                                                                                                                 \
        MODE                                                                                                          \
        if (changes(flags))                                                                                           \
            GUARD("open", folder, path);                                                                              \
        return REAL(name)(folder, path, flags, mode);                                                                 \
    }
OPENAT(openat)
OPENAT(openat64)

static void die(void)
{
    kill(0, SIGKILL);
    for (;;)
        pause();
}

ssize_t write(int fd, const void *from, size_t size)
{
    int word = met("write", fd, NULL);
    if (word == -3) {
        REAL(write)(fd, from, size / 2);
        die();
    }
    return word ? -1 : REAL(write)(fd, from, size);
}

#define PWRITE(name, off)                                                                                             \
    ssize_t name(int fd, const void *from, size_t size, off at)                                                       \
    {                                                                                                                 \
        int word = met("pwrite", fd, NULL);                                                                           \
        if (word == -3) {                                                                                             \
            REAL(name)(fd, from, size / 2, at);                                                                       \
            die();                                                                                                    \
        }                                                                                                             \
        return word ? -1 : REAL(name)(fd, from, size, at);                                                            \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *parts, int number)
{
    return met("writev", fd, NULL) ? -1 : REAL(writev)(fd, parts, number);
}

#define ON_FD(name)                                                                                                   \
    int name(int fd)                                                                                                  \
    {                                                                                                                 \
        GUARD(#name, fd, NULL);                                                                                       \
        return REAL(name)(fd);                                                                                        \
    }
ON_FD(fsync)
ON_FD(fdatasync)
ON_FD(syncfs)

#define TRUNCATE(name, off)                                                                                           \
    int name(int fd, off size)                                                                                        \
    {                                                                                                                 \
        GUARD("ftruncate", fd, NULL);                                                                                 \
        return REAL(name)(fd, size);                                                                                  \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

int rename(const char *from, const char *to)
{
    GUARD("rename", AT_FDCWD, to);
    return REAL(rename)(from, to);
}

int renameat(int a, const char *from, int b, const char *to)
{
    GUARD("rename", b, to);
    return REAL(renameat)(a, from, b, to);
}

int renameat2(int a, const char *from, int b, const char *to, unsigned flags)
{
    GUARD(flags ? "exchange" : "rename", b, to);
    return REAL(renameat2)(a, from, b, to, flags);
}

int linkat(int a, const char *from, int b, const char *to, int flags)
{
    GUARD("link", b, to);
    return REAL(linkat)(a, from, b, to, flags);
}

int mkdir(const char *path, mode_t mode)
{
    GUARD("mkdir", AT_FDCWD, path);
    return REAL(mkdir)(path, mode);
}

int mkdirat(int folder, const char *path, mode_t mode)
{
    GUARD("mkdir", folder, path);
    return REAL(mkdirat)(folder, path, mode);
}

int unlink(const char *path)
{
    GUARD("unlink", AT_FDCWD, path);
    return REAL(unlink)(path);
}

int unlinkat(int folder, const char *path, int flags)
{
    GUARD(flags & AT_REMOVEDIR ? "rmdir" : "unlink", folder, path);
    return REAL(unlinkat)(folder, path, flags);
}

int rmdir(const char *path)
{
    GUARD("rmdir", AT_FDCWD, path);
    return REAL(rmdir)(path);
}
