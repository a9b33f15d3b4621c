# pages: a file's pages in memory, taken and let go while queries are answered.
#
# A generation's file is read from end to end before it counts. A thread does so, without the GIL; but on the one core that
# a worker has the scheduler lets such a thread run on for milliseconds, and who asks meanwhile waits. So it stands aside
# after every STEP. It sleeps: to a scheduler that goes by fairness a yield says nothing.

cdef enum:
    STEP = 1 << 18             # octets between two pauses, some 50 µs of work
    PAUSE = 100000             # nanoseconds


cdef void stand_aside() noexcept nogil:
    cdef timespec pause
    pause.tv_sec = 0
    pause.tv_nsec = PAUSE
    nanosleep(&pause, NULL)


cdef class Pages:
    """A file mapped to be read. `at` is NULL until open(); the mapping ends with the object."""

    cdef const uint8_t* at
    cdef uint64_t size

    def __cinit__(self):
        self.at = NULL
        self.size = 0

    def __dealloc__(self):
        if self.at != NULL:
            with nogil:
                munmap(<void*>self.at, self.size)

    cdef int open(self, str path, uint64_t least, bint populate) except -1:
        """Map the file; ValueError if it has less than `least` octets. `populate`: have all pages at hand at once."""
        cdef int fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        cdef uint64_t size
        cdef void* at
        try:
            size = os.fstat(fd).st_size
            if size < least or size == 0:
                raise ValueError(f"{path}: no index file: shorter than its header")
            with nogil:
                at = mmap(NULL, size, PROT_READ, MAP_SHARED | (MAP_POPULATE if populate else 0), fd, 0)
            if at == MAP_FAILED:
                raise OSError(errno.errno, os.strerror(errno.errno), path)
        finally:
            os.close(fd)
        self.at = <const uint8_t*>at
        self.size = size
        return 0
