/* A library for LD_PRELOAD that counts the calls of one process that change files below one folder, and at the
 * n-th of them kills the process, lets the call fail, or lets it do half of its work. It can also let the n-th
 * allocation fail.
 *
 * A static LMDB inside a Python extension calls libc through its table of imports, as Python itself does, so its
 * writes are seen. Stores into mapped memory are not; nothing here writes through a map.
 *
 * What happened is told through memory shared with the process that armed it, since the one it happened to may be
 * dead: how many calls were counted, how often the planned thing happened, and name, size and path of each call.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { BEFORE = 1, TORN = 2, AFTER = 3, ONCE = 4, FOR_GOOD = 5, SHORT = 6 };
enum { CHANGES = 1, OPENS = 2 };
enum { GO = 0, FAIL = -1, HALF_THEN_DIE = 1, HALF = 2, DIE_AFTER = 3 };

#define TOLD 8192
#define PARTS 1024
#define FRAMES 48

struct call {
    char name[12];
    int32_t writes;
    int64_t size;
    char path[104];
};

struct told {
    int64_t count;
    int64_t happened;
    int64_t allocations;
    struct call calls[TOLD];
};

static struct told *told;
static char root[PATH_MAX];
static size_t root_length;
static long at;
static int action, error_number, kinds, armed_pid;
static long allocation_at, allocation_count;
static int allocation_sticky, allocations_armed;

void shim_tell(void *memory, const char *folder)
{
    told = memory;
    strncpy(root, folder, sizeof root - 1);
    root_length = strlen(root);
}

void shim_arm(long call, int what, int number, int which)
{
    at = call;
    action = what;
    error_number = number;
    kinds = which;
    armed_pid = (int)syscall(SYS_getpid);
}

void shim_arm_allocations(long call, int for_good)
{
    allocation_at = call;
    allocation_count = 0;
    allocation_sticky = for_good;
    armed_pid = (int)syscall(SYS_getpid);
    allocations_armed = 1;
}

void shim_disarm(void)
{
    if (allocations_armed && told)
        told->allocations = allocation_count;
    kinds = 0;
    allocations_armed = 0;
}

static int mine(void) { return (int)syscall(SYS_getpid) == armed_pid; }

__attribute__((noreturn)) static void die(void)
{
    syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    for (;;)
        pause();
}

static int below(const char *path)
{
    return !strncmp(path, root, root_length) && (path[root_length] == '/' || path[root_length] == 0);
}

static int path_of(int fd, char *path)
{
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return length > 0 && below(path);
}

static int named(int folder, const char *name, char *path)
{
    int fd, end = 0;
    if (sscanf(name, "/proc/self/fd/%d%n", &fd, &end) == 1 && !name[end])
        return path_of(fd, path);
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
        return below(path);
    }
    char base[PATH_MAX];
    if (folder == AT_FDCWD) {
        if (!getcwd(base, sizeof base))
            return 0;
    } else if (!path_of(folder, base))
        return 0;
    snprintf(path, PATH_MAX, "%.2000s/%.2000s", base, name);
    return below(path);
}

static int deaths_fd = -1;
static struct sigaction deaths_before[NSIG];

/* Tell of the native frames, then let whoever was there before do its part. */
static void dying(int number, siginfo_t *about, void *context)
{
    void *frames[FRAMES];
    kinds = allocations_armed = 0;
    backtrace_symbols_fd(frames, backtrace(frames, FRAMES), deaths_fd);
    sigaction(number, &deaths_before[number], NULL);
    if (deaths_before[number].sa_flags & SA_SIGINFO)
        deaths_before[number].sa_sigaction(number, about, context);
    else if (deaths_before[number].sa_handler != SIG_DFL && deaths_before[number].sa_handler != SIG_IGN)
        deaths_before[number].sa_handler(number);
    else
        raise(number);
}

void shim_trace_deaths(int fd)
{
    static const int numbers[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL};
    void *frames[FRAMES];
    struct sigaction action = {.sa_sigaction = dying, .sa_flags = SA_SIGINFO | SA_NODEFER};
    deaths_fd = fd;
    backtrace(frames, FRAMES); /* loads what it needs while there is memory */
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        sigaction(numbers[i], &action, &deaths_before[numbers[i]]);
}

/* Count a call on a path below the folder, and say what is to become of it. */
static int gate(int kind, const char *name, const char *path, int writes, int64_t size)
{
    if (!(kinds & kind) || !mine())
        return GO;
    long n = __sync_add_and_fetch(&told->count, 1);
    if (n <= TOLD) {
        struct call *call = &told->calls[n - 1];
        strncpy(call->name, name, sizeof call->name - 1);
        strncpy(call->path, path + root_length, sizeof call->path - 1);
        call->writes = writes;
        call->size = size;
    }
    if (!at || (action == FOR_GOOD ? n < at : n != at))
        return GO;
    __sync_add_and_fetch(&told->happened, 1);
    switch (action) {
    case BEFORE:
        die();
    case TORN:
        return HALF_THEN_DIE;
    case AFTER:
        return DIE_AFTER;
    case SHORT:
        return HALF;
    default:
        errno = error_number;
        return FAIL;
    }
}

#define ON_FD(kind, name, fd, writes, size)                                                                     \
    int verdict = GO;                                                                                           \
    if (kinds) {                                                                                                \
        char path[PATH_MAX];                                                                                    \
        if (path_of(fd, path))                                                                                  \
            verdict = gate(kind, name, path, writes, size);                                                     \
    }                                                                                                           \
    if (verdict == FAIL)                                                                                        \
        return -1;

#define ON_NAME(kind, name, folder, file)                                                                       \
    int verdict = GO;                                                                                           \
    if (kinds) {                                                                                                \
        char path[PATH_MAX];                                                                                    \
        if (named(folder, file, path))                                                                          \
            verdict = gate(kind, name, path, 0, 0);                                                             \
    }                                                                                                           \
    if (verdict == FAIL)                                                                                        \
        return -1;

#define DONE(result)                                                                                            \
    do {                                                                                                        \
        if (verdict == DIE_AFTER || verdict == HALF_THEN_DIE)                                                   \
            die();                                                                                              \
        return result;                                                                                          \
    } while (0)

ssize_t write(int fd, const void *data, size_t length)
{
    ON_FD(CHANGES, "write", fd, 1, (int64_t)length)
    size_t part = verdict == HALF || verdict == HALF_THEN_DIE ? length / 2 : length;
    ssize_t result = syscall(SYS_write, fd, data, part);
    DONE(result);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset)
{
    ON_FD(CHANGES, "pwrite", fd, 1, (int64_t)length)
    size_t part = verdict == HALF || verdict == HALF_THEN_DIE ? length / 2 : length;
    ssize_t result = syscall(SYS_pwrite64, fd, data, part, offset);
    DONE(result);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset)
{
    return pwrite64(fd, data, length, offset);
}

/* The first half of the bytes of a vector. */
static int halve(const struct iovec *vector, int count, struct iovec *half)
{
    size_t total = 0;
    for (int i = 0; i < count; i++)
        total += vector[i].iov_len;
    size_t left = total / 2;
    int parts = 0;
    for (int i = 0; i < count && left && parts < PARTS; i++) {
        half[parts] = vector[i];
        if (half[parts].iov_len > left)
            half[parts].iov_len = left;
        left -= half[parts++].iov_len;
    }
    return parts;
}

static int64_t total(const struct iovec *vector, int count)
{
    int64_t sum = 0;
    for (int i = 0; i < count; i++)
        sum += (int64_t)vector[i].iov_len;
    return sum;
}

ssize_t writev(int fd, const struct iovec *vector, int count)
{
    ON_FD(CHANGES, "writev", fd, 1, total(vector, count))
    struct iovec half[PARTS];
    if (verdict == HALF || verdict == HALF_THEN_DIE) {
        count = halve(vector, count, half);
        vector = half;
    }
    ssize_t result = syscall(SYS_writev, fd, vector, count);
    DONE(result);
}

ssize_t pwritev64(int fd, const struct iovec *vector, int count, off64_t offset)
{
    ON_FD(CHANGES, "pwritev", fd, 1, total(vector, count))
    struct iovec half[PARTS];
    if (verdict == HALF || verdict == HALF_THEN_DIE) {
        count = halve(vector, count, half);
        vector = half;
    }
    ssize_t result = syscall(SYS_pwritev, fd, vector, count, offset, 0);
    DONE(result);
}

ssize_t pwritev(int fd, const struct iovec *vector, int count, off_t offset)
{
    return pwritev64(fd, vector, count, offset);
}

/* What the C library writes for a stream does not pass through its own `write`. */
size_t fwrite(const void *data, size_t size, size_t count, FILE *stream)
{
    static size_t (*real)(const void *, size_t, size_t, FILE *);
    int verdict = GO;
    if (!real)
        real = (size_t(*)(const void *, size_t, size_t, FILE *))dlsym(RTLD_NEXT, "fwrite");
    if (kinds) {
        char path[PATH_MAX];
        if (path_of(fileno(stream), path))
            verdict = gate(CHANGES, "fwrite", path, 1, (int64_t)(size * count));
    }
    if (verdict == FAIL)
        return 0;
    if (verdict == HALF || verdict == HALF_THEN_DIE)
        count /= 2;
    size_t result = real(data, size, count, stream);
    DONE(result);
}

int fclose(FILE *stream)
{
    static int (*real)(FILE *);
    int verdict = GO;
    if (!real)
        real = (int (*)(FILE *))dlsym(RTLD_NEXT, "fclose");
    if (kinds) {
        char path[PATH_MAX];
        int fd = fileno(stream), flags = (int)syscall(SYS_fcntl, fd, F_GETFL);
        if (flags >= 0 && (flags & O_ACCMODE) != O_RDONLY && path_of(fd, path))
            verdict = gate(CHANGES, "fclose", path, 0, 0);
    }
    int result = real(stream);
    if (verdict == FAIL) {
        errno = error_number;
        return EOF;
    }
    DONE(result);
}

int fsync(int fd)
{
    ON_FD(CHANGES, "fsync", fd, 0, 0)
    int result = (int)syscall(SYS_fsync, fd);
    DONE(result);
}

int fdatasync(int fd)
{
    ON_FD(CHANGES, "fdatasync", fd, 0, 0)
    int result = (int)syscall(SYS_fdatasync, fd);
    DONE(result);
}

int ftruncate64(int fd, off64_t length)
{
    ON_FD(CHANGES, "truncate", fd, 0, length)
    int result = (int)syscall(SYS_ftruncate, fd, length);
    DONE(result);
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

static int allocate(int fd, off64_t offset, off64_t length)
{
    ON_FD(CHANGES, "fallocate", fd, 0, length)
    int result = (int)syscall(SYS_fallocate, fd, 0, offset, length);
    DONE(result);
}

int posix_fallocate64(int fd, off64_t offset, off64_t length)
{
    int before = errno, result = allocate(fd, offset, length) ? errno : 0;
    errno = before;
    return result;
}

int posix_fallocate(int fd, off_t offset, off_t length) { return posix_fallocate64(fd, offset, length); }

int fchmod(int fd, mode_t mode)
{
    ON_FD(CHANGES, "chmod", fd, 0, 0)
    int result = (int)syscall(SYS_fchmod, fd, mode);
    DONE(result);
}

/* Linux closes the descriptor even where it reports an error. */
int close(int fd)
{
    int verdict = GO;
    if (kinds) {
        char path[PATH_MAX];
        int flags = (int)syscall(SYS_fcntl, fd, F_GETFL);
        if (flags >= 0 && (flags & O_ACCMODE) != O_RDONLY && path_of(fd, path))
            verdict = gate(CHANGES, "close", path, 0, 0);
    }
    if (verdict == FAIL) {
        syscall(SYS_close, fd);
        errno = error_number;
        return -1;
    }
    int result = (int)syscall(SYS_close, fd);
    DONE(result);
}

int linkat(int from, const char *source, int to, const char *target, int flags)
{
    ON_NAME(CHANGES, "link", to, target)
    int result = (int)syscall(SYS_linkat, from, source, to, target, flags);
    DONE(result);
}

int link(const char *source, const char *target) { return linkat(AT_FDCWD, source, AT_FDCWD, target, 0); }

int renameat2(int from, const char *source, int to, const char *target, unsigned flags)
{
    ON_NAME(CHANGES, "rename", to, target)
    int result = (int)syscall(SYS_renameat2, from, source, to, target, flags);
    DONE(result);
}

int renameat(int from, const char *source, int to, const char *target)
{
    return renameat2(from, source, to, target, 0);
}

int rename(const char *source, const char *target)
{
    return renameat2(AT_FDCWD, source, AT_FDCWD, target, 0);
}

int unlinkat(int folder, const char *name, int flags)
{
    ON_NAME(CHANGES, flags & AT_REMOVEDIR ? "rmdir" : "unlink", folder, name)
    int result = (int)syscall(SYS_unlinkat, folder, name, flags);
    DONE(result);
}

int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }

int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int folder, const char *name, mode_t mode)
{
    ON_NAME(CHANGES, "mkdir", folder, name)
    int result = (int)syscall(SYS_mkdirat, folder, name, mode);
    DONE(result);
}

int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

static int open_at(int folder, const char *name, int flags, mode_t mode)
{
    int changes = (flags & (O_CREAT | O_TRUNC)) || (flags & O_ACCMODE) != O_RDONLY;
    ON_NAME(changes ? CHANGES : OPENS, "open", folder, name)
    int result = (int)syscall(SYS_openat, folder, name, flags, mode);
    DONE(result);
}

#define MODE                                                                                                    \
    mode_t mode = 0;                                                                                            \
    if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) {                                                  \
        va_list rest;                                                                                           \
        va_start(rest, flags);                                                                                  \
        mode = va_arg(rest, mode_t);                                                                            \
        va_end(rest);                                                                                           \
    }

int open(const char *name, int flags, ...)
{
    MODE
    return open_at(AT_FDCWD, name, flags, mode);
}

int open64(const char *name, int flags, ...)
{
    MODE
    return open_at(AT_FDCWD, name, flags, mode);
}

int openat(int folder, const char *name, int flags, ...)
{
    MODE
    return open_at(folder, name, flags, mode);
}

int openat64(int folder, const char *name, int flags, ...)
{
    MODE
    return open_at(folder, name, flags, mode);
}

void *mmap64(void *address, size_t length, int protection, int flags, int fd, off64_t offset)
{
    int verdict = GO;
    if (kinds && fd >= 0 && flags & MAP_SHARED) {
        char path[PATH_MAX];
        if (path_of(fd, path))
            verdict = gate(CHANGES, "mmap", path, 0, (int64_t)length);
    }
    if (verdict == FAIL)
        return MAP_FAILED;
    void *result = (void *)syscall(SYS_mmap, address, length, protection, flags, fd, offset);
    DONE(result);
}

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    return mmap64(address, length, protection, flags, fd, offset);
}

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);

static int refused(void)
{
    if (!allocations_armed)
        return 0;
    long n = __sync_add_and_fetch(&allocation_count, 1);
    if (!allocation_at || (allocation_sticky ? n < allocation_at : n != allocation_at) || !mine())
        return 0;
    __sync_add_and_fetch(&told->happened, 1);
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size) { return refused() ? NULL : __libc_malloc(size); }

void *calloc(size_t count, size_t size) { return refused() ? NULL : __libc_calloc(count, size); }

void *realloc(void *memory, size_t size) { return refused() ? NULL : __libc_realloc(memory, size); }
