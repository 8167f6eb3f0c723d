import type { Fleet } from '../fleet/fleet-api.ts'
import type { Served } from '../reading/served.ts'

/**
 * A route of the application that `holdfast up` serves. The module named by `app` in the configuration exports
 * `routes: readonly AppRoute[]`; no web framework is part of the agreement.
 */
export interface AppRoute {
  readonly method: 'GET' | 'POST'
  /** With names in braces, e.g. `/payledger/{tenant}/runs/{id}`. */
  readonly path: string
  /** False where nothing of a session is read or written. Of others an answer without `session` counts as a loss. */
  readonly session?: boolean
  /** A thrown `HoldfastError` becomes its problem document; anything else a 500 that says nothing of the inside. */
  handle(request: AppRequest): Promise<AppResponse>
}

/** Holdfast's own; a path of the application begins with none of them. */
export const reservedPaths = ['/v1/', '/healthz', '/readyz', '/metrics', '/openapi.json'] as const

export interface AppRequest {
  readonly fleet: Fleet
  /** The parts of the path by their names, decoded. */
  readonly params: Readonly<Record<string, string>>
  readonly query: Readonly<Record<string, string>>
  /** The JSON body; `undefined` when there is none. */
  readonly body: unknown
  /** The header `Holdfast-Session`: a token, or several with commas between them. */
  readonly session: string | undefined
  /** The header `Idempotency-Key`. */
  readonly idempotencyKey: string | undefined
}

export interface AppResponse {
  /** Of a success; or one from 400 on, which is told as a problem document. */
  readonly status: number
  /**
   * JSON; `bigint` travels as a string. None with a status that has no body, such as 204. Of what is no success the
   * `HoldfastError`, where the answer carries a session; else throw that.
   */
  readonly body: unknown
  /** Becomes the header `Holdfast-Session`. */
  readonly session?: string | undefined
  /** Becomes the headers that say who answered. */
  readonly served?: readonly Served[] | undefined
}
