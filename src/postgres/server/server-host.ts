import type { ConnectionTarget } from '../statement.ts'

/** Who runs PostgreSQL server processes for the fleet: its supervisor. */
export interface ServerHost {
  /** A fresh, empty directory that the servers' user owns, e.g. for a node or for a restored environment. */
  createDirectory(name: string): Promise<string>
  /**
   * Runs a server on a data directory; resolves when it accepts connections (read-only ones while it recovers).
   * Throws `server_failed` with the end of its log.
   */
  start(spec: ServerSpec): Promise<ServerAddress>
  stop(id: string, mode: 'fast' | 'immediate'): Promise<void>
  isRunning(id: string): boolean
  /** A target for the administrator's role on a server of this host. */
  adminTarget(address: ServerAddress): ConnectionTarget
}

export interface ServerSpec {
  readonly id: string
  readonly dataDir: string
  /** Settings of `postgresql.conf` on top of the host's own. */
  readonly settings: Readonly<Record<string, string>>
  /** Roles that the server lets in only later. */
  readonly lockedOut?: readonly string[]
}

export interface ServerAddress {
  /** A socket directory. */
  readonly host: string
  readonly port: number
}
