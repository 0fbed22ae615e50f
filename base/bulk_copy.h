// memcpy for much at a time that is not read again soon: the stores go past the cache. They leave
// in it what is there, and need not read the destination first, which is a third of the traffic of
// an ordinary copy. Use where the whole of what is copied is larger than the cache; the pieces may
// be small.
#ifndef BASE_BULK_COPY_H_
#define BASE_BULK_COPY_H_

#include <cstddef>

namespace nibble {

// The ranges do not overlap. What was written is visible to who sees that the call returned, as
// with memcpy.
void BulkCopy(void* to, const void* from, size_t bytes);

}  // namespace nibble

#endif  // BASE_BULK_COPY_H_
