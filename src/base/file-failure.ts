import { HoldfastError } from './errors.ts'

/** A file operation's failure in words of the registry. */
export function fileFailure(error: unknown, path: string): unknown {
  if (!(error instanceof Error) || !('code' in error)) return error
  switch (error.code) {
    case 'ENOSPC':
    case 'EDQUOT':
      return new HoldfastError('disk_full', `the file system of ${path} is full`, { cause: error })
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
    case 'ENOTDIR':
      return new HoldfastError('directory_not_writable', `${path} cannot be written by this user`, { cause: error })
    default:
      return error
  }
}
