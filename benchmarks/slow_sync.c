/* A disk that needs a while, and a count of how often it was asked: in programs started with LD_PRELOAD=slow_sync.so,
 * fsync and fdatasync take SLOW_SYNC_US microseconds more than they did, and add one to the 8 bytes (native order) at
 * the beginning of the file SLOW_SYNC_COUNT, which all processes of a server share. Compiled by bench_2pc.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
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

static int counted(int result)
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
    return counted(real(fd));
}

int fdatasync(int fd)
{
    static int (*real)(int);
    if (!real)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    return counted(real(fd));
}
