/* Which writes and syncs does a program make, in which order?
 *
 * Preloaded (LD_PRELOAD), it passes every call through and logs those that change files and folders below
 * LOST_SYNC_DIR to the file LOST_SYNC_LOG. It keeps no table of descriptors: where one leads is asked of the kernel
 * at each call, so that duplicated and inherited ones are seen too.
 *
 * The order in the log is one in which the disk may have seen it: a write is logged while a lock keeps all other
 * logged calls out; a sync is logged twice, before and after, because it covers what was written before it began
 * and counts from when it has ended.
 *
 * What it cannot log (a shared writable mapping, say) it logs as 'X': a log that is not whole must not pass for one.
 *
 * Record: kind, 1 byte; inode, offset, length of the data, length of the first and of the second path, 8 bytes each
 * in native order; then first path, second path, data.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char dir[PATH_MAX];
static size_t dir_length;
static int log_fd = -1;

/* The next definition of the same name: the C library's. */
#define NEXT(name) ((__typeof__(&name))next_of(#name))

static void *next_of(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) {
        fprintf(stderr, "lost_sync shim: the C library has no %s\n", name);
        abort();
    }
    return found;
}

static void give_up(const char *why) {
    fprintf(stderr, "lost_sync shim: %s: %s\n", why, strerror(errno));
    abort();
}

__attribute__((constructor)) static void start(void) {
    const char *below = getenv("LOST_SYNC_DIR"), *to = getenv("LOST_SYNC_LOG");
    if (!below || !to) return;
    if (!realpath(below, dir)) give_up("LOST_SYNC_DIR");
    dir_length = strlen(dir);
    log_fd = NEXT(open)(to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_fd < 0) give_up("LOST_SYNC_LOG");
}

static int is_below(const char *path) {
    return log_fd >= 0 && strncmp(path, dir, dir_length) == 0 && (path[dir_length] == '/' || path[dir_length] == 0);
}

/* Where a descriptor leads, if that is a file or folder of ours. */
static int ours(int fd, char *path, struct stat *stat) {
    char link[64];
    int saved = errno, found = 0;
    if (log_fd >= 0 && fd != log_fd && fstat(fd, stat) == 0 && (S_ISREG(stat->st_mode) || S_ISDIR(stat->st_mode))) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, path, PATH_MAX - 1);
        if (length > 0) {
            path[length] = 0;
            found = is_below(path);
        }
    }
    errno = saved;
    return found;
}

/* A path as given, made absolute: its folder resolved, its last part kept, for that may not exist or be a link. */
static int resolve(int at, const char *given, char *path) {
    char whole[PATH_MAX], folder[PATH_MAX], link[64];
    int saved = errno, found = 0;
    if (log_fd < 0 || !given) return 0;
    if (given[0] == '/' || at == AT_FDCWD) {
        snprintf(whole, sizeof whole, "%s", given);
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t length = readlink(link, folder, sizeof folder - 1);
        if (length < 0) return 0;
        folder[length] = 0;
        if ((size_t)snprintf(whole, sizeof whole, "%s/%s", folder, given) >= sizeof whole) return 0;
    }
    size_t end = strlen(whole);
    while (end > 1 && whole[end - 1] == '/') whole[--end] = 0;
    char *last = strrchr(whole, '/');
    const char *name = last ? last + 1 : whole;
    if (last == whole) {
        strcpy(folder, "/");
    } else {
        char parent[PATH_MAX];
        snprintf(parent, sizeof parent, "%.*s", last ? (int)(last - whole) : 1, last ? whole : ".");
        if (!realpath(parent, folder)) {
            errno = saved;
            return 0;
        }
    }
    found = (size_t)snprintf(path, PATH_MAX, "%s/%s", folder, name) < PATH_MAX && is_below(path);
    errno = saved;
    return found;
}

static void put(const void *bytes, size_t length) {
    const char *from = bytes;
    while (length > 0) {
        ssize_t wrote = NEXT(write)(log_fd, from, length);
        if (wrote < 0) {
            if (errno == EINTR) continue;
            give_up("writing the log");
        }
        from += wrote;
        length -= (size_t)wrote;
    }
}

static void record(char kind, uint64_t inode, uint64_t offset, const char *path, const char *other,
                   const struct iovec *parts, int count, size_t length) {
    int saved = errno;
    uint64_t numbers[5] = {inode, offset, length, strlen(path), strlen(other)};
    put(&kind, 1);
    put(numbers, sizeof numbers);
    put(path, numbers[3]);
    put(other, numbers[4]);
    for (int i = 0; i < count && length > 0; i++) {
        size_t part = parts[i].iov_len < length ? parts[i].iov_len : length;
        put(parts[i].iov_base, part);
        length -= part;
    }
    errno = saved;
}

#define LOCKED(...)                  \
    do {                             \
        pthread_mutex_lock(&lock);   \
        __VA_ARGS__;                 \
        int kept = errno;            \
        pthread_mutex_unlock(&lock); \
        errno = kept;                \
    } while (0)

/* ------------------------------------------------------------------------------------------------- opening */

typedef int (*open_call)(int, const char *, int, mode_t);

static int plain_open(int at, const char *path, int flags, mode_t mode) {
    return at == AT_FDCWD ? NEXT(open)(path, flags, mode) : NEXT(openat)(at, path, flags, mode);
}

static int logged_open(open_call call, int at, const char *given, int flags, mode_t mode) {
    char path[PATH_MAX];
    if (!(flags & (O_CREAT | O_TRUNC)) || !resolve(at, given, path)) return call(at, given, flags, mode);
    int fd;
    LOCKED({
        struct stat before, after;
        int existed = stat(path, &before) == 0;
        fd = call(at, given, flags, mode);
        if (fd >= 0 && fstat(fd, &after) == 0 && S_ISREG(after.st_mode)) {
            if (!existed) record('C', after.st_ino, 0, path, "", NULL, 0, 0);
            else if ((flags & O_TRUNC) && before.st_size > 0) record('T', after.st_ino, 0, path, "", NULL, 0, 0);
        }
    });
    return fd;
}

#define MODE_OF(flags, last)                            \
    mode_t mode = 0;                                    \
    if (((flags) & O_CREAT) || ((flags) & O_TMPFILE) == O_TMPFILE) { \
        va_list rest;                                   \
        va_start(rest, last);                           \
        mode = va_arg(rest, mode_t);                    \
        va_end(rest);                                   \
    }

int open(const char *path, int flags, ...) {
    MODE_OF(flags, flags);
    return logged_open(plain_open, AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE_OF(flags, flags);
    return logged_open(plain_open, AT_FDCWD, path, flags | O_LARGEFILE, mode);
}

int openat(int at, const char *path, int flags, ...) {
    MODE_OF(flags, flags);
    return logged_open(plain_open, at, path, flags, mode);
}

int openat64(int at, const char *path, int flags, ...) {
    MODE_OF(flags, flags);
    return logged_open(plain_open, at, path, flags | O_LARGEFILE, mode);
}

int creat(const char *path, mode_t mode) {
    return logged_open(plain_open, AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

/* ------------------------------------------------------------------------------------------------- writing */

static uint64_t next_offset(int fd, const struct stat *stat) {
    if (NEXT(fcntl)(fd, F_GETFL) & O_APPEND) return (uint64_t)stat->st_size;
    off_t at = lseek(fd, 0, SEEK_CUR);
    return at < 0 ? 0 : (uint64_t)at;
}

#define WRITING(fd, offset, parts, count, call)                                                       \
    do {                                                                                              \
        char path[PATH_MAX];                                                                          \
        struct stat stat;                                                                             \
        if (!ours(fd, path, &stat)) return call;                                                      \
        ssize_t wrote;                                                                                \
        LOCKED({                                                                                      \
            fstat(fd, &stat);                                                                         \
            uint64_t at = offset;                                                                     \
            wrote = call;                                                                             \
            if (wrote > 0) record('W', stat.st_ino, at, path, "", parts, count, (size_t)wrote);       \
        });                                                                                           \
        return wrote;                                                                                 \
    } while (0)

ssize_t write(int fd, const void *data, size_t length) {
    struct iovec part = {(void *)data, length};
    WRITING(fd, next_offset(fd, &stat), &part, 1, NEXT(write)(fd, data, length));
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    WRITING(fd, next_offset(fd, &stat), parts, count, NEXT(writev)(fd, parts, count));
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    struct iovec part = {(void *)data, length};
    WRITING(fd, (uint64_t)offset, &part, 1, NEXT(pwrite)(fd, data, length, offset));
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    struct iovec part = {(void *)data, length};
    WRITING(fd, (uint64_t)offset, &part, 1, NEXT(pwrite64)(fd, data, length, offset));
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    WRITING(fd, (uint64_t)offset, parts, count, NEXT(pwritev)(fd, parts, count, offset));
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
    WRITING(fd, (uint64_t)offset, parts, count, NEXT(pwritev64)(fd, parts, count, offset));
}

#define SIZING(fd, size, call)                                                       \
    do {                                                                             \
        char path[PATH_MAX];                                                         \
        struct stat stat;                                                            \
        if (!ours(fd, path, &stat)) return call;                                     \
        int result;                                                                  \
        LOCKED({                                                                     \
            fstat(fd, &stat);                                                        \
            result = call;                                                           \
            if (result == 0) record('T', stat.st_ino, size, path, "", NULL, 0, 0);   \
        });                                                                          \
        return result;                                                               \
    } while (0)

#define GROWN(stat, end) ((uint64_t)((stat).st_size > (end) ? (stat).st_size : (end)))

int ftruncate(int fd, off_t size) { SIZING(fd, (uint64_t)size, NEXT(ftruncate)(fd, size)); }
int ftruncate64(int fd, off64_t size) { SIZING(fd, (uint64_t)size, NEXT(ftruncate64)(fd, size)); }
int posix_fallocate(int fd, off_t at, off_t length) {
    SIZING(fd, GROWN(stat, at + length), NEXT(posix_fallocate)(fd, at, length));
}
int posix_fallocate64(int fd, off64_t at, off64_t length) {
    SIZING(fd, GROWN(stat, at + length), NEXT(posix_fallocate64)(fd, at, length));
}

/* ------------------------------------------------------------------------------------------------- syncing */

/* The number that ties the end of a sync to its beginning. */
static uint64_t syncs;

#define SYNCING(fd, call)                                                                      \
    do {                                                                                       \
        char path[PATH_MAX];                                                                   \
        struct stat stat;                                                                      \
        if (!ours(fd, path, &stat)) return call;                                               \
        uint64_t mine;                                                                         \
        LOCKED({                                                                               \
            mine = ++syncs;                                                                     \
            record('B', stat.st_ino, mine, path, "", NULL, 0, 0);                              \
        });                                                                                    \
        int result = call;                                                                     \
        if (result == 0) LOCKED(record('E', stat.st_ino, mine, path, "", NULL, 0, 0));         \
        return result;                                                                         \
    } while (0)

int fsync(int fd) { SYNCING(fd, NEXT(fsync)(fd)); }
int fdatasync(int fd) { SYNCING(fd, NEXT(fdatasync)(fd)); }

/* --------------------------------------------------------------------------------------------------- names */

#define NAMING(kind, from_at, from, to_at, to, call)                                          \
    do {                                                                                      \
        char first[PATH_MAX] = "", second[PATH_MAX] = "";                                     \
        int logs = resolve(from_at, from, first) | resolve(to_at, to, second);                \
        if (!logs) return call;                                                               \
        int result;                                                                           \
        LOCKED({                                                                              \
            result = call;                                                                    \
            struct stat stat = {0};                                                           \
            if (result == 0 && (kind) == 'M') lstat(first, &stat);                            \
            if (result == 0) record(kind, stat.st_ino, 0, first, second, NULL, 0, 0);         \
        });                                                                                   \
        return result;                                                                        \
    } while (0)

int mkdir(const char *path, mode_t mode) { NAMING('M', AT_FDCWD, path, AT_FDCWD, NULL, NEXT(mkdir)(path, mode)); }
int mkdirat(int at, const char *path, mode_t mode) { NAMING('M', at, path, AT_FDCWD, NULL, NEXT(mkdirat)(at, path, mode)); }
int unlink(const char *path) { NAMING('U', AT_FDCWD, path, AT_FDCWD, NULL, NEXT(unlink)(path)); }
int rmdir(const char *path) { NAMING('U', AT_FDCWD, path, AT_FDCWD, NULL, NEXT(rmdir)(path)); }
int unlinkat(int at, const char *path, int flags) { NAMING('U', at, path, AT_FDCWD, NULL, NEXT(unlinkat)(at, path, flags)); }
int rename(const char *from, const char *to) { NAMING('R', AT_FDCWD, from, AT_FDCWD, to, NEXT(rename)(from, to)); }
int renameat(int at, const char *from, int to_at, const char *to) {
    NAMING('R', at, from, to_at, to, NEXT(renameat)(at, from, to_at, to));
}
int renameat2(int at, const char *from, int to_at, const char *to, unsigned flags) {
    NAMING(flags & RENAME_EXCHANGE ? 'X' : 'R', at, from, to_at, to, NEXT(renameat2)(at, from, to_at, to, flags));
}
int link(const char *from, const char *to) { NAMING('L', AT_FDCWD, from, AT_FDCWD, to, NEXT(link)(from, to)); }
int linkat(int at, const char *from, int to_at, const char *to, int flags) {
    NAMING('L', at, from, to_at, to, NEXT(linkat)(at, from, to_at, to, flags));
}
int symlink(const char *to, const char *path) { NAMING('X', AT_FDCWD, path, AT_FDCWD, NULL, NEXT(symlink)(to, path)); }
int truncate(const char *path, off_t size) { NAMING('X', AT_FDCWD, path, AT_FDCWD, NULL, NEXT(truncate)(path, size)); }

/* ----------------------------------------------------------------------------------- what is not followed */

/* SQLite's index of the write-ahead log is rebuilt after a crash: nothing in it has to be durable. */
static int is_index(const char *path) {
    size_t length = strlen(path);
    return length > 4 && strcmp(path + length - 4, "-shm") == 0;
}

static void note_mapping(int protection, int flags, int fd) {
    char path[PATH_MAX];
    struct stat stat;
    if (fd >= 0 && (flags & MAP_SHARED) && (protection & PROT_WRITE) && ours(fd, path, &stat) && !is_index(path))
        LOCKED(record('X', stat.st_ino, 0, path, "", NULL, 0, 0));
}

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset) {
    note_mapping(protection, flags, fd);
    return NEXT(mmap)(at, length, protection, flags, fd, offset);
}

void *mmap64(void *at, size_t length, int protection, int flags, int fd, off64_t offset) {
    note_mapping(protection, flags, fd);
    return NEXT(mmap64)(at, length, protection, flags, fd, offset);
}

/* Copies inside the kernel are refused, so that callers fall back to writing. */
ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t length, unsigned flags) {
    char path[PATH_MAX];
    struct stat stat;
    if (ours(to, path, &stat)) {
        errno = ENOSYS;
        return -1;
    }
    return NEXT(copy_file_range)(from, from_at, to, to_at, length, flags);
}

ssize_t sendfile64(int to, int from, off64_t *offset, size_t length) {
    char path[PATH_MAX];
    struct stat stat;
    if (ours(to, path, &stat)) {
        errno = ENOSYS;
        return -1;
    }
    ssize_t (*call)(int, int, off64_t *, size_t) = (ssize_t(*)(int, int, off64_t *, size_t))next_of("sendfile64");
    return call(to, from, offset, length);
}
