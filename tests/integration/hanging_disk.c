/* Makes the disk of one process hang: while the file $TROTH_HANG/PID exists, its fdatasync does not return. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int fdatasync(int fd) {
    static int (*real)(int);
    const char *directory = getenv("TROTH_HANG");
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    if (directory) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%d", directory, (int)getpid());
        while (access(path, F_OK) == 0) usleep(2000);
    }
    return real(fd);
}
