/* A disk that needs a while, and a count of how often it was asked: in programs started with LD_PRELOAD=slow_sync.so,
 * fsync, fdatasync and each write that is synced by itself (O_DSYNC, RWF_DSYNC) take SLOW_SYNC_US microseconds more than
 * they did, and add one to the 8 bytes (native order) at the beginning of the file SLOW_SYNC_COUNT, which all processes
 * of a server share. Compiled by bench_2pc.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static long delay_us;
static uint64_t nowhere, *count = &nowhere;

__attribute__((constructor)) static void begin(void)
{
    const char *text = getenv("SLOW_SYNC_US"), *path = getenv("SLOW_SYNC_COUNT");
    delay_us = text ? atol(text) : 0;
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *shared = mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (shared != MAP_FAILED)
        count = shared;
    close(file);
}

static long counted(long result)
{
    __atomic_fetch_add(count, 1, __ATOMIC_RELAXED);
    struct timespec left = { delay_us / 1000000, delay_us % 1000000 * 1000 };
    while (delay_us > 0 && nanosleep(&left, &left) != 0)
        ;
    return result;
}

int fsync(int fd)
{
    static int (*real)(int);
    if (!real)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    return (int)counted(real(fd));
}

int fdatasync(int fd)
{
    static int (*real)(int);
    if (!real)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    return (int)counted(real(fd));
}

/* Both names of each: programs that are compiled for files above 2 GiB call the second one. */
static ssize_t written(int fd, ssize_t result, int is_synced)
{
    int flags = is_synced ? O_DSYNC : fcntl(fd, F_GETFL);
    return result >= 0 && flags >= 0 && (flags & O_DSYNC) ? counted(result) : result;
}

#define PWRITE(name)                                                               \
    ssize_t name(int fd, const void *content, size_t size, off_t at)               \
    {                                                                              \
        static ssize_t (*real)(int, const void *, size_t, off_t);                  \
        if (!real)                                                                 \
            real = (ssize_t (*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, #name); \
        return written(fd, real(fd, content, size, at), 0);                        \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

#define PWRITEV2(name)                                                             \
    ssize_t name(int fd, const struct iovec *parts, int count, off_t at, int flags) \
    {                                                                              \
        static ssize_t (*real)(int, const struct iovec *, int, off_t, int);        \
        if (!real)                                                                 \
            real = (ssize_t (*)(int, const struct iovec *, int, off_t, int))dlsym(RTLD_NEXT, #name); \
        return written(fd, real(fd, parts, count, at, flags), flags & (RWF_DSYNC | RWF_SYNC)); \
    }
PWRITEV2(pwritev2)
PWRITEV2(pwritev64v2)
