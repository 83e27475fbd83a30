cdef int team(int wanted) noexcept nogil
cdef int processors() noexcept nogil
