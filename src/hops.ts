/** What `holdfast/hops` exports: see `hops/hops.ts` for what it is. */
export type { Carried, Loss, LossReason, OnLoss } from './hops/hops.ts'
export { refusedHeader, sessionHeader } from './hops/hops.ts'
export { SessionCarrier } from './hops/session-carrier.ts'
export type { CookieOptions } from './hops/session-cookies.ts'
export type { Fetch, SessionFetchOptions } from './hops/session-fetch.ts'
export { sessionFetch } from './hops/session-fetch.ts'
export type { SessionMiddleware, SessionMiddlewareOptions } from './hops/session-middleware.ts'
export { sessionMiddleware, sessionOf } from './hops/session-middleware.ts'
