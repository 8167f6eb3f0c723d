import { readFileSync, statfsSync } from 'node:fs'

/**
 * Where the servers of a run may lie in memory: there are hundreds of them, each of a thousand files that live for seconds. What
 * is tested loses processes and never the machine, so what a server has written it finds again there as on a disk.
 */
const folder = '/dev/shm'

/** Several times what the fleets take that run beside each other, with what was restored of them. */
const roomBytesMin = 6 * 1024 ** 3
/** What is stored there is taken from the programs, and others may begin to store there too. */
const memoryBytesMin = 12 * 1024 ** 3

/** Undefined where there is no such place, too little of it or of memory, or no program starts from it. */
export function folderInMemory(): string | undefined {
  if (process.platform !== 'linux' || process.availableMemory() < memoryBytesMin) return undefined
  try {
    const mount = readFileSync('/proc/self/mounts', 'utf8')
      .split('\n')
      .map((line) => line.split(' '))
      .find(([, at, kind]) => at === folder && kind === 'tmpfs')
    if (mount?.[3] === undefined || mount[3].split(',').includes('noexec')) return undefined
    const { bsize, bavail } = statfsSync(folder)
    return bsize * bavail < roomBytesMin ? undefined : folder
  } catch {
    return undefined
  }
}
